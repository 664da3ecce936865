"""IQ2_XS: groups of 8 weights on a grid of 512 points, 16 sub-blocks of 16 with 4-bit sub-scales under one
scale.

    byte   0  1 | 2 ......... 65 | 66 ....... 73
    field  d    | qs[32]         | scales[8]
           f16  | u16 per group: | sub-scale of sub-block 2 b low half,
                |   index 9 bits,|   of 2 b + 1 high half of byte b
                |   signs 7 bits |

weight i = d * (0.5 + s) / 4 * grid value * sign; the eighth sign of a group makes the number of minus signs
even. 2.3125 bits per weight. Source of the layout: `block_iq2_xs` in ggml's ggml-common.h; see
spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_value
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.grid_search import Search, error_weights, fit_super_block
from gguflow.blocks.grids import even_signs, grid, pack_pairs, signed, unpack_pairs

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "<u2", 32), ("scales", "u1", 8)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(32, Int16ul), "scales" / Array(8, Int8ul))

SEARCH = Search(grid="iq2_xs", sub_block=16, reach=9, step=0.1, tiny=1e-15, even_signs=True, refit="off grid")


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """importance is required."""
    if importance is None:
        raise TypeError("IQ2_XS is not encoded without importance")
    fits, d, packed = fit_super_block(x, error_weights(x, importance, ordered_sum(x * x) / f32(256)), SEARCH)
    if d == 0 and not any(f.scale for f in fits):
        return {"d": 0, "qs": [0] * 32, "scales": [0] * 8}
    qs = [point | bits << 9 for fit in fits for point, bits in zip(fit.points, fit.signs, strict=True)]
    return {"d": d, "qs": qs, "scales": pack_pairs(packed)}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    points = grid("iq2_xs").points
    sub_scales = unpack_pairs(fields["scales"])
    groups = []
    for i, word in enumerate(fields["qs"]):
        scale = d * (f32(0.5) + f32(sub_scales[i // 2])) * f32(0.25)
        groups.append(signed(scale * points[word & 511], even_signs(word >> 9)))
    return np.concatenate(groups)


FORMAT = BlockFormat(
    name="IQ2_XS",
    id=17,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (0.5 + s) / 4 * grid * sign",
    summary="8 weights to a 9-bit grid index and 7 signs, 4-bit sub-scales per 16, "
    "one f16 scale per 256 weights",
    snr=10.47,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="required",
)
