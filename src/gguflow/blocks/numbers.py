"""The plain numbers that are kept as they are, one a block, little-endian: I8, I16, I32 and I64, integers in
two's complement, and F64, IEEE 754 binary64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from construct import Construct, Float64l, Int8sl, Int16sl, Int32sl, Int64sl, Struct
from numpy.typing import NDArray

from gguflow.blocks.base import BlockFormat, Fields, ReservedCode


def _declare(
    name: str,
    id: int,
    number_type: np.dtype[Any],
    number: Construct[Any, Any],
    summary: str,
    reserved: tuple[ReservedCode, ...] | None = None,
) -> BlockFormat:
    """The format of one number type.

    number_type: NumPy's, little-endian.
    number: construct's.
    The others are those of BlockFormat.
    """

    def encode_block(x: NDArray[Any], importance: NDArray[Any] | None = None) -> Fields:
        return {"value": x[0].item()}

    def decode_block(fields: Fields) -> NDArray[Any]:
        return np.array([fields["value"]], number_type)

    return BlockFormat(
        name=name,
        id=id,
        block_size=1,
        dtype=np.dtype([("value", number_type)]),
        grammar=Struct("value" / number),
        formula="w = value",
        summary=summary,
        encode_block=encode_block,
        decode_block=decode_block,
        number_type=number_type,
        reserved=reserved,
    )


UPPER_EXPONENT = ReservedCode(4, 4, 0x7FF00000, "value")  # of the binary64, in its upper half

FORMATS = (
    _declare("I8", 24, np.dtype("i1"), Int8sl, "8-bit signed integer"),
    _declare("I16", 25, np.dtype("<i2"), Int16sl, "16-bit signed integer"),
    _declare("I32", 26, np.dtype("<i4"), Int32sl, "32-bit signed integer"),
    _declare("I64", 27, np.dtype("<i8"), Int64sl, "64-bit signed integer"),
    _declare("F64", 28, np.dtype("<f8"), Float64l, "binary64", (UPPER_EXPONENT,)),
)
