"""I64: two's complement integers of 64 bits, little-endian, one a block. Kept as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from construct import Int64sl, Struct
from numpy.typing import NDArray

from gguflow.blocks.base import BlockFormat, Fields

DTYPE = np.dtype([("value", "<i8")])
GRAMMAR = Struct("value" / Int64sl)


def encode_block(x: NDArray[Any], importance: NDArray[Any] | None = None) -> Fields:
    return {"value": int(x[0])}


def decode_block(fields: Fields) -> NDArray[Any]:
    return np.array([fields["value"]], "<i8")


FORMAT = BlockFormat(
    name="I64",
    id=27,
    block_size=1,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = value",
    summary="64-bit signed integer",
    encode_block=encode_block,
    decode_block=decode_block,
    number_type=np.dtype("<i8"),
)
