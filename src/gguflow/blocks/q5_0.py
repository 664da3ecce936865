"""Q5_0: 5-bit codes, one scale for 32 weights.

    byte   0  1 | 2 .... 5             | 6 ............... 21
    field  d    | qh                   | qs[16]
           f16  | bit i: bit 4 of q[i] | weight j low half, weight j + 16 high half

weight i = d * (q - 16). 5.5 bits per weight. Source of the layout: `block_q5_0` in ggml's ggml-common.h; see
spec/blocks/legacy.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Int32ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.legacy_search import fit_symmetric, row_weights
from gguflow.blocks.nibbles import pack_fifth_bits, pack_nibbles, signed_peak, unpack_five_bits

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qh", "<u4"), ("qs", "u1", 16)])
GRAMMAR = Struct("d" / Int16ul, "qh" / Int32ul, "qs" / Array(16, Int8ul))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The weight of the largest magnitude becomes code 0, so d has the opposite sign. Where 1/d overflows (d
    is denormal) every code is 0.

    With importance, a search for the scale; the block then counts as a row of its own (see
    spec/blocks/legacy.md).
    """
    if importance is not None:
        scale, best = fit_symmetric(x, row_weights(x, importance), 16)
        codes = best.tolist()
        return {"d": half_bits(scale), "qh": pack_fifth_bits(codes), "qs": pack_nibbles(codes)}
    d = signed_peak(x) / f32(-16)
    inverse = f32(1) / d if d else f32(0)
    codes = [0] * 32 if np.isinf(inverse) else [min(31, int(v * inverse + f32(16.5))) for v in x]
    return {"d": half_bits(d), "qh": pack_fifth_bits(codes), "qs": pack_nibbles(codes)}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    return np.array([f32(q - 16) * d for q in unpack_five_bits(fields["qh"], fields["qs"])], f32)


FORMAT = BlockFormat(
    name="Q5_0",
    id=6,
    block_size=32,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (q - 16)",
    summary="5-bit codes, one f16 scale per 32 weights",
    snr=27.36,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
    weighs_rows=True,
)
