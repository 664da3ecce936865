"""Q8_0: 8-bit codes, one scale for 32 weights.

    byte   0  1 | 2 ........ 33
    field  d    | qs[32]
           f16  | int8

weight i = d * qs[i]. 8.5 bits per weight. Source of the layout: `block_q8_0` in ggml's ggml-common.h; see
spec/blocks/legacy.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8sl, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value, round_half_away

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "i1", 32)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(32, Int8sl))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The largest magnitude becomes code 127. Where 1/d overflows (d is denormal) every code is 0. Importance
    is not used.
    """
    d = np.max(np.abs(x)) / f32(127)
    inverse = f32(1) / d if d else f32(0)
    if np.isinf(inverse):
        inverse = f32(0)
    return {"d": half_bits(d), "qs": [round_half_away(v * inverse) for v in x]}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    return np.array([f32(q) * d for q in fields["qs"]], f32)


FORMAT = BlockFormat(
    name="Q8_0",
    id=8,
    block_size=32,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * q",
    summary="8-bit codes, one f16 scale per 32 weights",
    snr=45.41,
    encode_block=encode_block,
    decode_block=decode_block,
)
