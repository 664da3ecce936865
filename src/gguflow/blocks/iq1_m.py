"""IQ1_M: groups of 8 weights on a grid of 2048 ternary points with a shift each, 16 sub-blocks of 16 with
3-bit sub-scales under one scale.

    byte   0 ................ 31 | 32 ......................... 47 | 48 ......................... 55
    field  qs[32]                | qh[16], one per sub-block:      | scales[8], four little-endian u16:
           qs[i]: low 8 bits of  |   bits 0-2: high 3 bits of the  |   bits 3 k ... 3 k + 2 of word n:
           sub-scale 4 n + k
             the index of group i|     first group's index, bit 3: |   bits 12 ... 15 of word n: bits 4 n ...
             4 n + 3 of d, an f16
                                 |     its shift is negative;      |
                                 |   bits 4-7: the second group's  |

weight i = d * (2 s + 1) * (grid value + shift), grid values -1, 0, 1, shift 1/8 or -1/8. 1.75 bits per
weight. Source of the layout: `block_iq1_m` and `iq1m_scale_t` in ggml's ggml-common.h; see
spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats, ReservedCode
from gguflow.blocks.bits import half_bits, half_value, nearest_int
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.grid_search import error_weights
from gguflow.blocks.grids import grid
from gguflow.blocks.iq1_search import SHIFT, Fit, fit, values

f32 = np.float32

DTYPE = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "u1", 8)])
GRAMMAR = Struct("qs" / Array(32, Int8ul), "qh" / Array(16, Int8ul), "scales" / Array(8, Int8ul))

TINY = f32(1e-7)
FUDGE = f32(1.1125)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """Without importance the error weights are the squares of the weights. The scale is fitted again to the
    packed sub-scales.
    """
    w = x * x if importance is None else error_weights(x, importance, f32(2) * ordered_sum(x * x) / f32(256))
    parts = [slice(i, i + 16) for i in range(0, 256, 16)]
    fits = [fit(x[part], w[part], halves=2, tiny=TINY) for part in parts]
    qs = [point & 255 for f in fits for point in f.points]
    qh = [f.points[0] >> 8 | f.points[1] >> 8 << 4 for f in fits]
    largest = max(f.scale for f in fits)
    if largest == 0:
        return {"qs": qs, "qh": qh, "scales": [0] * 8}
    d = largest / f32(15)
    inverse = f32(1) / d
    packed = [min(7, max(0, nearest_int(f32(0.5) * (inverse * f.scale - f32(1))))) for f in fits]
    q = np.concatenate([_weights(f, sub_scale) for f, sub_scale in zip(fits, packed, strict=True)])
    sum_q2 = ordered_sum(w * q * q)
    if sum_q2 > 0:
        d = ordered_sum(w * q * x) / sum_q2
    qh = [
        high | (8 if f.shifts[0] < 0 else 0) | (128 if f.shifts[1] < 0 else 0)
        for high, f in zip(qh, fits, strict=True)
    ]
    return {"qs": qs, "qh": qh, "scales": _pack_scales(packed, half_bits(d * FUDGE))}


def _weights(f: Fit, sub_scale: int) -> Floats:
    """What the groups of a sub-block decode to, with d = 1."""
    levels = grid("iq1").levels
    shifted = [values(shift)[levels[point]] for point, shift in zip(f.points, f.shifts, strict=True)]
    return np.concatenate(shifted) * f32(2 * sub_scale + 1)


def _pack_scales(sub_scales: list[int], d: int) -> list[int]:
    words = [
        sum(sub_scales[4 * n + k] << 3 * k for k in range(4)) | (d >> 4 * n & 15) << 12 for n in range(4)
    ]
    return list(b"".join(word.to_bytes(2, "little") for word in words))


def decode_block(fields: Fields) -> Floats:
    words = [fields["scales"][2 * n] | fields["scales"][2 * n + 1] << 8 for n in range(4)]
    d = half_value(sum((word >> 12) << 4 * n for n, word in enumerate(words)))
    points = grid("iq1").points
    groups = []
    for i in range(32):
        scale = d * f32(2 * (words[i // 8] >> 3 * (i // 2 % 4) & 7) + 1)
        high = fields["qh"][i // 2] >> 4 * (i % 2)
        groups.append(scale * (points[fields["qs"][i] | (high & 7) << 8] + (-SHIFT if high & 8 else SHIFT)))
    return np.concatenate(groups)


FORMAT = BlockFormat(
    name="IQ1_M",
    id=29,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (2 s + 1) * (grid ± 1/8)",
    summary="8 ternary weights to an 11-bit grid index and a shift, 3-bit sub-scales per 16, "
    "one f16 scale per 256 weights",
    snr=4.69,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
    reserved=(
        ReservedCode(52, 4, 0x7000C000, "d"),
    ),  # the exponent of the d that is spread over the tops of scales[4:8]
)
