"""Q4_1: 4-bit codes, a scale and a minimum for 32 weights.

    byte   0  1 | 2  3 | 4 ............... 19
    field  d    | m    | qs[16]
           f16  | f16  | weight j low half, weight j + 16 high half

weight i = d * q + m. 5 bits per weight. Source of the layout: `block_q4_1` in ggml's ggml-common.h; see
spec/blocks/legacy.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.legacy_search import LADDER, fit_scale_min, row_weights
from gguflow.blocks.nibbles import first_extremes, pack_nibbles, unpack_nibbles

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("m", "<u2"), ("qs", "u1", 16)])
GRAMMAR = Struct("d" / Int16ul, "m" / Int16ul, "qs" / Array(16, Int8ul))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The smallest weight becomes code 0, the largest 15. Where d or 1/d is infinite (the range overflows, or
    is denormal) every code is 0.

    With importance, a search for the scale and the minimum; the block then counts as a row of its own (see
    spec/blocks/legacy.md).
    """
    if importance is not None:
        scale, minimum, best = fit_scale_min(x, row_weights(x, importance), 15, LADDER)
        codes = best.tolist()
        return {"d": half_bits(scale), "m": half_bits(-minimum), "qs": pack_nibbles(codes)}
    bottom, top = first_extremes(x)
    d = (top - bottom) / f32(15)
    inverse = f32(1) / d if d else f32(0)
    usable = 0 < inverse < np.inf
    codes = [min(15, int((v - bottom) * inverse + f32(0.5))) for v in x] if usable else [0] * 32
    return {"d": half_bits(d), "m": half_bits(bottom), "qs": pack_nibbles(codes)}


def decode_block(fields: Fields) -> Floats:
    d, m = half_value(fields["d"]), half_value(fields["m"])
    return np.array([f32(q) * d + m for q in unpack_nibbles(fields["qs"])], f32)


FORMAT = BlockFormat(
    name="Q4_1",
    id=3,
    block_size=32,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * q + m",
    summary="4-bit codes, an f16 scale and an f16 minimum per 32 weights",
    snr=22.13,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
    weighs_rows=True,
)
