"""TQ2_0: ternary codes of two bits, one scale for 256 weights.

    byte   0 ..................................... 63 | 64 65
    field  qs[64]                                     | d
           byte 32 h + m: weight 128 h + 32 n + m     | f16
                          in bits 2 n and 2 n + 1

weight i = d * (q - 1). 2.0625 bits per weight. Source of the layout: `block_tq2_0` in ggml's ggml-common.h;
see spec/blocks/ternary.md.
"""

from __future__ import annotations

import math

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.ternary import ternary_codes

f32 = np.float32

DTYPE = np.dtype([("qs", "u1", 64), ("d", "<u2")])
GRAMMAR = Struct("qs" / Array(64, Int8ul), "d" / Int16ul)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The largest magnitude is the scale; every weight is rounded to the nearest of -d, 0, d."""
    d, codes = ternary_codes(x)
    groups = np.array(codes).reshape(2, 4, 32)  # half, n, m
    return {
        "qs": [int(sum(group[n, m] << 2 * n for n in range(4))) for group in groups for m in range(32)],
        "d": half_bits(d),
    }


def decode_block(fields: Fields) -> Floats:
    d, qs = half_value(fields["d"]), fields["qs"]
    return np.array(
        [f32((qs[32 * h + m] >> 2 * n & 3) - 1) * d for h in range(2) for n in range(4) for m in range(32)],
        f32,
    )


FORMAT = BlockFormat(
    name="TQ2_0",
    id=35,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (q - 1)",
    summary="ternary codes in two bits, one f16 scale per 256 weights",
    snr=1.85,
    largest=math.inf,
    encode_block=encode_block,
    decode_block=decode_block,
)
