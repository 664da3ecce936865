"""Which formats rows can be kept in."""

from __future__ import annotations

from gguflow import blocks, parametric
from gguflow.blocks import BlockFormat
from gguflow.errors import ShapeError, UsageError
from gguflow.parametric import Encoding
from gguflow.rows.chunk_rows import chunk_rows
from gguflow.rows.codec import BlockRows, RowCodec

MAX_WIDTH = 1 << 28


def find_codec(name: str | BlockFormat | Encoding, width: int) -> RowCodec:
    """How rows of `width` numbers are kept in a format.

    Raises UnknownFormatError, ShapeError (a width that does not divide into blocks), UsageError (a format in
    which a row does not stand alone).
    """
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MAX_WIDTH:
        raise ShapeError(f"a row has 1 to {MAX_WIDTH} numbers, not {width!r}")
    if isinstance(name, Encoding) or (isinstance(name, str) and parametric.is_name(name)):
        return chunk_rows(name if isinstance(name, Encoding) else parametric.find(name), width)
    block_format = name if isinstance(name, BlockFormat) else blocks.by_name(name)
    if block_format.number_type is not None and block_format.key not in ("f16", "f32"):
        raise UsageError(f"{block_format} does not hold float32 vectors")
    if block_format.importance == "required":
        raise UsageError(
            f"{block_format} is too coarse to encode without importance, "
            "which rows that come one by one do not have"
        )
    return BlockRows(
        block_format.key, width, block_format.row_bytes(width), block_format.id, width, block_format
    )
