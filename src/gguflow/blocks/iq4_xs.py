"""IQ4_XS: 4-bit codes for sixteen unevenly spaced values, 8 sub-blocks of 32 weights with 6-bit sub-scales
under one scale.

    byte   0  1 | 2     3  | 4 ...... 7  | 8 ................ 135
    field  d    | scales_h | scales_l[4] | qs[128]
           f16  | u16      |             | sub-block b in bytes 16 b ... 16 b + 15, weight j low half, weight
                j + 16 high half

    scales_l[b / 2]: low four bits of sub-scale b, even b in the low half.  scales_h: its high two bits, at
    bit 2 b.

weight i = d * (sub-scale - 32) * VALUES[q]. 4.25 bits per weight. Source of the layout: `block_iq4_xs` in
ggml's ggml-common.h; see spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import nearest_codes, ordered_sum
from gguflow.blocks.iq4 import VALUES, error_weights, fit_scale, inverse_or_zero, nearest_values
from gguflow.blocks.nibbles import pack_nibbles, unpack_nibbles

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)])
GRAMMAR = Struct(
    "d" / Int16ul, "scales_h" / Int16ul, "scales_l" / Array(4, Int8ul), "qs" / Array(128, Int8ul)
)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The sub-scale of the largest magnitude (the first of them) becomes -32; codes follow the packed
    sub-scales.
    """
    w = error_weights(x, importance, ordered_sum(x * x) / f32(256))
    parts = [slice(32 * b, 32 * b + 32) for b in range(8)]
    sub_scales = np.array([fit_scale(x[part], w[part]) for part in parts], f32)
    d = -_peak(sub_scales) / f32(32)
    packed = nearest_codes(inverse_or_zero(d) * sub_scales, -32, 31)
    qs: list[int] = []
    for part, q in zip(parts, packed, strict=True):
        codes = nearest_values(inverse_or_zero(d * f32(q)) * x[part])
        qs += pack_nibbles([int(code) for code in codes])
    stored = [int(q) + 32 for q in packed]
    return {
        "d": half_bits(d),
        "scales_h": sum((q >> 4) << (2 * b) for b, q in enumerate(stored)),
        "scales_l": [stored[b] & 15 | (stored[b + 1] & 15) << 4 for b in range(0, 8, 2)],
        "qs": qs,
    }


def _peak(sub_scales: Floats) -> np.float32:
    """The first sub-scale of the largest magnitude, with its sign. NaN is passed over."""
    peak = f32(0)
    for scale in sub_scales:
        if abs(scale) > abs(peak):
            peak = scale
    return peak


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    parts = []
    for b in range(8):
        sub_scale = fields["scales_l"][b // 2] >> 4 * (b % 2) & 15 | (fields["scales_h"] >> 2 * b & 3) << 4
        codes = unpack_nibbles(fields["qs"][16 * b : 16 * b + 16])
        parts.append(d * f32(sub_scale - 32) * VALUES[codes])
    return np.concatenate(parts)


FORMAT = BlockFormat(
    name="IQ4_XS",
    id=23,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (s - 32) * VALUES[q]",
    summary="4-bit codes for 16 uneven values, 8 sub-scales of 6 bits, one f16 scale per 256 weights",
    snr=22.29,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
