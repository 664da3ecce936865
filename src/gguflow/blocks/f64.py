"""F64: IEEE 754 binary64, little-endian, one number a block. Kept as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from construct import Float64l, Struct
from numpy.typing import NDArray

from gguflow.blocks.base import BlockFormat, Fields, ReservedCode

DTYPE = np.dtype([("value", "<f8")])
GRAMMAR = Struct("value" / Float64l)


def encode_block(x: NDArray[Any], importance: NDArray[Any] | None = None) -> Fields:
    return {"value": float(x[0])}


def decode_block(fields: Fields) -> NDArray[Any]:
    return np.array([fields["value"]], "<f8")


FORMAT = BlockFormat(
    name="F64",
    id=28,
    block_size=1,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = value",
    summary="binary64",
    encode_block=encode_block,
    decode_block=decode_block,
    number_type=np.dtype("<f8"),
    reserved=(ReservedCode(4, 4, 0x7FF00000, "value"),),  # the upper half of the binary64
)
