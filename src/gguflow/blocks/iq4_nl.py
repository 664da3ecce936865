"""IQ4_NL: 4-bit codes for sixteen unevenly spaced values, one scale for 32 weights.

    byte   0  1 | 2 ............... 17
    field  d    | qs[16]
           f16  | weight j low half, weight j + 16 high half

weight i = d * VALUES[q]. 4.5 bits per weight. Source of the layout: `block_iq4_nl` in ggml's ggml-common.h;
see spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.iq4 import VALUES, error_weights, fit_scale, inverse_or_zero, nearest_values
from gguflow.blocks.nibbles import pack_nibbles, unpack_nibbles

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "u1", 16)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(16, Int8ul))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The codes are those of the scale as it was before rounding to f16."""
    d = fit_scale(x, error_weights(x, importance, ordered_sum(x * x) / f32(32)))
    codes = nearest_values(inverse_or_zero(d) * x)
    return {"d": half_bits(d), "qs": pack_nibbles([int(q) for q in codes])}


def decode_block(fields: Fields) -> Floats:
    return half_value(fields["d"]) * VALUES[unpack_nibbles(fields["qs"])]


FORMAT = BlockFormat(
    name="IQ4_NL",
    id=20,
    block_size=32,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * VALUES[q]",
    summary="4-bit codes for 16 uneven values, one f16 scale per 32 weights",
    snr=22.36,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
