"""Q1_0: signs, one scale for 128 weights.

    byte   0  1 | 2 ............................... 17
    field  d    | qs[16]
           f16  | bit k of byte j: weight 8 j + k is not negative

weight i = d or -d. 1.125 bits per weight. Source of the layout: `block_q1_0` in ggml's ggml-common.h; see
spec/blocks/legacy.md.
"""

from __future__ import annotations

import math

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "u1", 16)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(16, Int8ul))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """d is the mean magnitude, summed from the first weight to the last. Both zeros count as not negative."""
    total = f32(0)
    for v in x:
        total = total + abs(v)
    return {"d": half_bits(total / f32(128)), "qs": np.packbits(x >= 0, bitorder="little").tolist()}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    signs = np.unpackbits(np.array(fields["qs"], np.uint8), bitorder="little")
    return np.array([d if sign else -d for sign in signs], f32)


FORMAT = BlockFormat(
    name="Q1_0",
    id=41,
    block_size=128,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (2 * q - 1)",
    summary="signs, one f16 scale per 128 weights",
    snr=4.43,
    largest=math.inf,
    encode_block=encode_block,
    decode_block=decode_block,
)
