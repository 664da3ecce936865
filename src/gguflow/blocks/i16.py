"""I16: two's complement integers of 16 bits, little-endian, one a block. Kept as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from construct import Int16sl, Struct
from numpy.typing import NDArray

from gguflow.blocks.base import BlockFormat, Fields

DTYPE = np.dtype([("value", "<i2")])
GRAMMAR = Struct("value" / Int16sl)


def encode_block(x: NDArray[Any], importance: NDArray[Any] | None = None) -> Fields:
    return {"value": int(x[0])}


def decode_block(fields: Fields) -> NDArray[Any]:
    return np.array([fields["value"]], "<i2")


FORMAT = BlockFormat(
    name="I16",
    id=25,
    block_size=1,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = value",
    summary="16-bit signed integer",
    encode_block=encode_block,
    decode_block=decode_block,
    number_type=np.dtype("<i2"),
)
