"""Q2_0: 2-bit codes, one scale for 64 weights.

    byte   0  1 | 2 ............................................. 17
    field  d    | qs[16]
           f16  | weight 4 j + k in bits 2 k and 2 k + 1 of byte j

weight i = d * (q - 1): -d, 0, d; the code 3, 2 d, is never written. 2.25 bits per weight.
Source of the layout: `block_q2_0` in ggml's ggml-common.h; see spec/blocks/legacy.md.
"""

from __future__ import annotations

import math

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.ternary import ternary_codes

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "u1", 16)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(16, Int8ul))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The largest magnitude is the scale; every weight is rounded to the nearest of -d, 0, d. Where 1/d
    overflows (d is denormal) every code is 0.
    """
    d, codes = ternary_codes(x)
    if d > 0 and np.isinf(f32(1) / d):
        codes = [0] * 64
    return {"d": half_bits(d), "qs": [sum(codes[4 * j + k] << 2 * k for k in range(4)) for j in range(16)]}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    return np.array([f32((byte >> 2 * k & 3) - 1) * d for byte in fields["qs"] for k in range(4)], f32)


FORMAT = BlockFormat(
    name="Q2_0",
    id=42,
    block_size=64,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (q - 1)",
    summary="ternary codes in two bits, one f16 scale per 64 weights",
    snr=2.86,
    largest=math.inf,
    encode_block=encode_block,
    decode_block=decode_block,
)
