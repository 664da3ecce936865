"""`gguflow inspect`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gguflow.cli.command import Command
from gguflow.cli.options import print_json
from gguflow.cli.text import json_ready, nbytes_text, table, value_text, value_type_text
from gguflow.errors import printable

if TYPE_CHECKING:
    from gguflow.container.header import Header, TensorInfo

TOKENS = "tokenizer.ggml.tokens"

_DESCRIPTION = """\
Show the metadata and the tensor table of a GGUF file. Only the header is read and checked. Long arrays and
strings are shortened."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument("file", metavar="FILE", help="a .gguf file")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print everything as JSON: shapes in NumPy order, offsets within the data section",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the header of a file.

    arguments: the parsed command line.
    """
    header = inspect_file(arguments.file)
    payloads = decoded(arguments.file, header)
    if arguments.json:
        print_json(header_data(header, payloads))
    else:
        print(header_text(header, arguments.file, payloads))


def inspect_file(path: str | Path) -> Header:
    """Read and check the header of a GGUF file.

    path: the file.
    Raises what `container.reader.read_header` raises.
    """
    from gguflow.blocks import block_sizes
    from gguflow.container.reader import read_header

    return read_header(path, block_sizes)


@dataclass(frozen=True)
class Decoded:
    """The tensor that a payload holds.

    encoding: its name.
    shape: in NumPy order.
    """

    encoding: str
    shape: tuple[int, ...]


def decoded(path: str | Path, header: Header) -> dict[str, Decoded]:
    """The payloads of a file by tensor name.

    path: the file.
    header: of this file.
    Raises a FileError with the broken rule if a descriptor is invalid.
    """
    from gguflow.container.payload_keys import payload_names
    from gguflow.container.reader import map_file
    from gguflow.container.row_store import is_row_store
    from gguflow.sources.payloads import form_at

    if is_row_store(header.metadata):
        return _decoded_rows(header)
    names = payload_names(header.metadata)
    if not names:
        return {}
    content, found = map_file(path), {}
    for tensor in header.tensors:
        if tensor.name in names:
            start = header.data_offset + tensor.offset
            encoding, shape = form_at(content, start, f"{path}: {printable(tensor.name)}")
            found[tensor.name] = Decoded(encoding.name, shape)
    return found


def _decoded_rows(header: Header) -> dict[str, Decoded]:
    """The rows of a row store in an encoding of the family; nothing if they are in a block format."""
    from gguflow.container.row_store import TENSOR
    from gguflow.rows.codec import PayloadRows
    from gguflow.rows.judging import codec_of, judge_rows

    if any(finding.severity == "error" for finding in judge_rows(header, 0)):
        return {}
    codec = codec_of(header)
    if not isinstance(codec, PayloadRows):
        return {}
    return {TENSOR: Decoded(codec.name, (header.tensors[0].dims[1], codec.width))}


def header_data(header: Header, payloads: Mapping[str, Decoded] = MappingProxyType({})) -> dict[str, Any]:
    """The header as JSON-ready data: metadata in full; of each tensor, the shape in NumPy order, the format,
    the offset in the data section, and the size.

    header: of a file.
    payloads: of the same file; their format and shape are those of the decoded tensor.
    """
    return {
        "metadata": {key: json_ready(value.value) for key, value in header.metadata.items()},
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(shape),
                "format": name,
                "offset": tensor.offset,
                "nbytes": _nbytes(tensor.n_weights, tensor.type_id),
            }
            for tensor in header.tensors
            for name, shape in [_form(tensor, payloads)]
        ],
    }


def header_text(
    header: Header, path: str | Path, payloads: Mapping[str, Decoded] = MappingProxyType({})
) -> str:
    """The header for people: totals, metadata with long values shortened, and a line for each tensor.

    header: of a file.
    path: of the file.
    payloads: of the same file; their format and shape are those of the decoded tensor.
    """
    keys = [(key, value_type_text(value), value_text(value)) for key, value in header.metadata.items()]
    forms = [_form(tensor, payloads) for tensor in header.tensors]
    rows = [
        (
            t.name,
            name,
            "x".join(map(str, shape)),
            nbytes_text(_nbytes(t.n_weights, t.type_id)),
            f"{t.offset:,}",
        )
        for t, (name, shape) in zip(header.tensors, forms, strict=True)
    ]
    n_weights = sum(math.prod(shape) for _, shape in forms)
    nbytes = sum(_nbytes(tensor.n_weights, tensor.type_id) for tensor in header.tensors)
    per_weight = f", {8 * nbytes / n_weights:.3f} bits per weight" if n_weights else ""
    counts = f"{len(keys)} keys, {len(rows)} tensors, {n_weights:,} weights{per_weight}"
    tensors = table(("tensor", "format", "shape", "size", "offset"), rows, right=(3, 4))
    what = "a vocabulary, " if not rows and TOKENS in header.metadata else ""
    head = f"{printable(str(path))}: GGUF v{header.version}, {what}{counts}"
    return "\n\n".join([head, table(("key", "type", "value"), keys), tensors])


def _form(tensor: TensorInfo, payloads: Mapping[str, Decoded]) -> tuple[str, tuple[int, ...]]:
    """Format and shape; of a payload, those of the decoded tensor."""
    payload = payloads.get(tensor.name)
    return (payload.encoding, payload.shape) if payload else (_format_name(tensor.type_id), tensor.shape)


def _format_name(type_id: int) -> str:
    from gguflow import blocks

    block_format = blocks.by_id(type_id)
    return block_format.name if block_format else f"type {type_id}"


def _nbytes(n_weights: int, type_id: int) -> int:
    from gguflow import blocks

    block_format = blocks.by_id(type_id)
    return block_format.nbytes(n_weights) if block_format else 0


COMMAND = Command(
    name="inspect",
    order=40,
    summary="show the contents of a GGUF file",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
