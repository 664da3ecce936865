"""F32: IEEE 754 binary32, little-endian, one number a block."""

from __future__ import annotations

import numpy as np
from construct import Float32l, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats, ReservedCode

DTYPE = np.dtype([("value", "<f4")])
GRAMMAR = Struct("value" / Float32l)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    return {"value": float(x[0])}


def decode_block(fields: Fields) -> Floats:
    return np.array([fields["value"]], np.float32)


FORMAT = BlockFormat(
    name="F32",
    id=0,
    block_size=1,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = value",
    summary="binary32",
    encode_block=encode_block,
    decode_block=decode_block,
    number_type=np.dtype("<f4"),
    reserved=(ReservedCode(0, 4, 0x7F800000, "value"),),
)
