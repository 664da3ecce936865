"""IQ2_S: groups of 8 weights on a grid of 1024 points with all 8 signs, 16 sub-blocks of 16 with 4-bit
sub-scales under one scale.

    byte   0  1 | 2 ......................... 65 | 66 ........... 73 | 74 ....... 81
    field  d    | qs[64]                         | qh[8]             | scales[8]
           f16  | qs[i]: low 8 bits of index i,  | qh[i / 4]: high 2 | sub-scale of sub-block 2 b low half,
                | qs[32 + i]: signs of group i   |   bits, at 2(i%4) |   of 2 b + 1 high half of byte b

weight i = d * (0.5 + s) / 4 * grid value * sign. 2.5625 bits per weight. Source of the layout: `block_iq2_s`
in ggml's ggml-common.h; see spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_value
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.grid_search import Search, error_weights, fit_super_block
from gguflow.blocks.grids import grid, pack_pairs, signed, unpack_pairs

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "u1", 64), ("qh", "u1", 8), ("scales", "u1", 8)])
GRAMMAR = Struct(
    "d" / Int16ul, "qs" / Array(64, Int8ul), "qh" / Array(8, Int8ul), "scales" / Array(8, Int8ul)
)

SEARCH = Search(
    grid="iq2_s", sub_block=16, reach=9, step=0.1, tiny=1e-8, even_signs=False, refit="off grid", fudge=0.9875
)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """Without importance the error weights are half the mean square plus the square of each weight."""
    mean_square = f32(2) * ordered_sum(x * x) / f32(256)
    w = f32(0.25) * mean_square + x * x if importance is None else error_weights(x, importance, mean_square)
    fits, d, packed = fit_super_block(x, w, SEARCH)
    points = [point for fit in fits for point in fit.points]
    return {
        "d": d,
        "qs": [point & 255 for point in points] + [bits for fit in fits for bits in fit.signs],
        "qh": [sum((points[first + i] >> 8) << 2 * i for i in range(4)) for first in range(0, 32, 4)],
        "scales": pack_pairs(packed),
    }


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    points = grid("iq2_s").points
    sub_scales = unpack_pairs(fields["scales"])
    groups = []
    for i in range(32):
        scale = d * (f32(0.5) + f32(sub_scales[i // 2])) * f32(0.25)
        point = fields["qs"][i] | (fields["qh"][i // 4] >> 2 * (i % 4) & 3) << 8
        groups.append(signed(scale * points[point], fields["qs"][32 + i]))
    return np.concatenate(groups)


FORMAT = BlockFormat(
    name="IQ2_S",
    id=22,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (0.5 + s) / 4 * grid * sign",
    summary="8 weights to a 10-bit grid index and 8 signs, 4-bit sub-scales per 16, "
    "one f16 scale per 256 weights",
    snr=11.53,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
