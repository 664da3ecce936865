"""The formats that rows can be kept in."""

from __future__ import annotations

from gguflow import blocks
from gguflow.arguments import shown
from gguflow.blocks import BlockFormat
from gguflow.blocks.families import Encoding, find_encoding, part
from gguflow.errors import ShapeError, UnknownFormatError, UsageError
from gguflow.rows.codec import BlockRows, PayloadRows, RowCodec

MAX_WIDTH = 1 << 28


def find_codec(name: str | BlockFormat | Encoding, width: int) -> RowCodec:
    """The codec for rows of a format.

    name: the format: its name, or a BlockFormat or Encoding.
    width: the number of numbers in a row.

    Raises UnknownFormatError, ShapeError (a width that does not divide into blocks), UsageError (a format in
    which a row cannot be decoded without others).
    """
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MAX_WIDTH:
        raise ShapeError(f"a row has 1 to {MAX_WIDTH} numbers, not {shown(width)}")
    if not isinstance(name, (str, BlockFormat)) and not hasattr(name, "family"):
        raise UnknownFormatError(f'a format is a name, like "q8_0", or a BlockFormat, not {shown(name)}')
    encoding = (
        find_encoding(name) if isinstance(name, str) else None if isinstance(name, BlockFormat) else name
    )
    if encoding is not None:
        codec: PayloadRows = part(encoding.family, "stages.rows").row_codec(encoding, width)
        return codec
    block_format = name if isinstance(name, BlockFormat) else blocks.by_name(str(name))
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
