"""I8: two's complement integers of 8 bits, one a block. Kept as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from construct import Int8sl, Struct
from numpy.typing import NDArray

from gguflow.blocks.base import BlockFormat, Fields

DTYPE = np.dtype([("value", "i1")])
GRAMMAR = Struct("value" / Int8sl)


def encode_block(x: NDArray[Any], importance: NDArray[Any] | None = None) -> Fields:
    return {"value": int(x[0])}


def decode_block(fields: Fields) -> NDArray[Any]:
    return np.array([fields["value"]], "i1")


FORMAT = BlockFormat(
    name="I8",
    id=24,
    block_size=1,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = value",
    summary="8-bit signed integer",
    encode_block=encode_block,
    decode_block=decode_block,
    number_type=np.dtype("i1"),
)
