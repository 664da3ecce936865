"""IQ2_XXS: groups of 8 weights on a grid of 256 points, 8 sub-blocks of 32 with 4-bit sub-scales under one
scale.

    byte   0  1 | 2 ................ 65
    field  d    | qs[32], u16, four to a sub-block:
           f16  |   qs[4 b], qs[4 b + 1]: four grid indices of 8 bits, the first in the lowest byte
                |   qs[4 b + 2], qs[4 b + 3]: 32 bits: four times 7 signs from bit 0 up, the sub-scale in bits
                    28 to 31

weight i = d * (0.5 + s) / 4 * grid value * sign; the eighth sign of a group makes the number of minus signs
even. 2.0625 bits per weight. Source of the layout: `block_iq2_xxs` in ggml's ggml-common.h; see
spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_value
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.grid_search import Search, error_weights, fit_super_block
from gguflow.blocks.grids import even_signs, grid, signed

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "<u2", 32)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(32, Int16ul))

SEARCH = Search(
    grid="iq2_xxs",
    sub_block=32,
    reach=6,
    step=0.1,
    tiny=1e-15,
    even_signs=True,
    refit="always",
    positive_fit=True,
)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """importance is required."""
    if importance is None:
        raise TypeError("IQ2_XXS is not encoded without importance")
    fits, d, packed = fit_super_block(x, error_weights(x, importance, ordered_sum(x * x) / f32(256)), SEARCH)
    if d == 0 and not any(f.scale for f in fits):
        return {"d": 0, "qs": [0] * 32}
    qs: list[int] = []
    for fit, sub_scale in zip(fits, packed, strict=True):
        signs = sum(bits << 7 * i for i, bits in enumerate(fit.signs)) | sub_scale << 28
        low, high = fit.points[0] | fit.points[1] << 8, fit.points[2] | fit.points[3] << 8
        qs += [low, high, signs & 0xFFFF, signs >> 16]
    return {"d": d, "qs": qs}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    points = grid("iq2_xxs").points
    groups = []
    for b in range(0, 32, 4):
        low, high, signs_low, signs_high = fields["qs"][b : b + 4]
        signs = signs_low | signs_high << 16
        sub_scale = d * (f32(0.5) + f32(signs >> 28)) * f32(0.25)
        for i, point in enumerate((low & 255, low >> 8, high & 255, high >> 8)):
            groups.append(signed(sub_scale * points[point], even_signs(signs >> 7 * i & 127)))
    return np.concatenate(groups)


FORMAT = BlockFormat(
    name="IQ2_XXS",
    id=16,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (0.5 + s) / 4 * grid * sign",
    summary="8 weights to an 8-bit grid index and 7 signs, 4-bit sub-scales per 32, "
    "one f16 scale per 256 weights",
    snr=9.27,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="required",
)
