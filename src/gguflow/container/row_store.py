"""Files that grow by rows (spec/rows.md): their keys, their header, and the eight bytes of the row count.

    gguflow.rows.version   1; a file with this key is a row store
    gguflow.rows.format    the format of rows: a block format or a parametric encoding, in lower case
    gguflow.rows.width     numbers in a row
    gguflow.rows.filler    dots, as many as put the count of rows at a multiple of eight bytes

The header never changes its size, and only the count in it changes: `ne[1]` of the only tensor.
"""

from __future__ import annotations

from gguflow.container.header import Header, TensorInfo, parse
from gguflow.container.metadata import Metadata, string, u32, u64
from gguflow.container.writer import build

ARCHITECTURE = "gguflow-rows"
VERSION = 1
VERSION_KEY = "gguflow.rows.version"
FORMAT_KEY = "gguflow.rows.format"
WIDTH_KEY = "gguflow.rows.width"
FILLER_KEY = "gguflow.rows.filler"
TENSOR = "rows"
COUNT_BYTES = 8


def is_row_store(metadata: Metadata) -> bool:
    """Whether a file may grow, so that rule C-020 does not apply."""
    return VERSION_KEY in metadata


def build_header(format_name: str, width: int, type_id: int, row_length: int, more: Metadata) -> bytes:
    """The header of a store without rows, padded to the data section.

    format_name: of the rows.
    width: numbers in a row.
    type_id, row_length: of the tensor.
    more: metadata that the format needs.
    """
    keys: Metadata = {
        "general.architecture": string(ARCHITECTURE),
        **more,
        VERSION_KEY: u32(VERSION),
        FORMAT_KEY: string(format_name),
        WIDTH_KEY: u64(width),
        FILLER_KEY: string(""),
    }
    tensors = [TensorInfo(TENSOR, (row_length, 0), type_id, 0)]
    missing = -count_position(parse(build(keys, tensors), "")) % COUNT_BYTES
    return build(keys | {FILLER_KEY: string("." * missing)}, tensors)


def count_position(header: Header) -> int:
    """The offset of the number of rows in the file, whose header has one tensor of two dimensions."""
    (tensor,) = header.tensors
    return tensor.position + 8 + len(tensor.name.encode()) + 4 + 8
