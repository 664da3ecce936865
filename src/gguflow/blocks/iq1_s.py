"""IQ1_S: groups of 8 weights on a grid of 2048 ternary points, 8 sub-blocks of 32 with 3-bit sub-scales and a
shift under one scale.

    byte   0  1 | 2 ................. 33 | 34 ......................... 49
    field  d    | qs[32]                 | qh[8], u16, one per sub-block:
           f16  | qs[i]: low 8 bits of   |   bits 3 l ... 3 l + 2: high 3 bits of the index of group l of the
                sub-block
                |   the index of group i |   bits 12 ... 14: sub-scale,  bit 15: the shift is negative

weight i = d * (2 s + 1) * (grid value + shift), grid values -1, 0, 1, shift 1/8 or -1/8. 1.5625 bits per
weight. Source of the layout: `block_iq1_s` in ggml's ggml-common.h; see spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value, nearest_int
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.grid_search import error_weights
from gguflow.blocks.grids import grid
from gguflow.blocks.iq1_search import SHIFT, fit

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "u1", 32), ("qh", "<u2", 8)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(32, Int8ul), "qh" / Array(8, Int16ul))

TINY = f32(1e-12)
FUDGE = f32(1.125)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """importance is required."""
    if importance is None:
        raise TypeError("IQ1_S is not encoded without importance")
    w = error_weights(x, importance, f32(2) * ordered_sum(x * x) / f32(256))
    fits = [fit(x[i : i + 32], w[i : i + 32], halves=1, tiny=TINY) for i in range(0, 256, 32)]
    qs = [point & 255 for f in fits for point in f.points]
    qh = [sum((point >> 8) << 3 * i for i, point in enumerate(f.points)) for f in fits]
    largest = max(f.scale for f in fits)
    if largest == 0:
        return {"d": 0, "qs": qs, "qh": qh}
    d = largest / f32(15)
    inverse = f32(1) / d
    for b, f in enumerate(fits):
        sub_scale = min(7, max(0, nearest_int(f32(0.5) * (inverse * f.scale - f32(1)))))
        qh[b] |= (sub_scale | (8 if f.shifts[0] < 0 else 0)) << 12
    return {"d": half_bits(d * FUDGE), "qs": qs, "qh": qh}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    points = grid("iq1").points
    groups = []
    for i in range(32):
        word = fields["qh"][i // 4]
        scale = d * f32(2 * (word >> 12 & 7) + 1)
        point = fields["qs"][i] | (word >> 3 * (i % 4) & 7) << 8
        groups.append(scale * (points[point] + (-SHIFT if word & 0x8000 else SHIFT)))
    return np.concatenate(groups)


FORMAT = BlockFormat(
    name="IQ1_S",
    id=19,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (2 s + 1) * (grid ± 1/8)",
    summary="8 ternary weights to an 11-bit grid index, 3-bit sub-scales and a shift per 32, "
    "one f16 scale per 256 weights",
    snr=6.27,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="required",
)
