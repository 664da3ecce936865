"""IQ3_S: groups of 4 weights on a grid of 512 points with all signs, 8 sub-blocks of 32 with 4-bit sub-scales
under one scale.

    byte   0  1 | 2 ................. 65 | 66 ........... 73 | 74 ......... 105 | 106 ...... 109
    field  d    | qs[64]                 | qh[8]             | signs[32]        | scales[4]
           f16  | qs[i]: low 8 bits of   | qh[i / 8]: ninth  | signs[i]: of     | sub-scale of sub-block 2 b
                low half,
                |   the index of group i |   bit, at bit i%8 |   weights 8 i .. |   of 2 b + 1 high half of
                    byte b

weight i = d * (1 + 2 s) * grid value * sign. 3.4375 bits per weight. Source of the layout: `block_iq3_s` in
ggml's ggml-common.h; see spec/blocks/i-quants.md.
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

DTYPE = np.dtype([("d", "<u2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])
GRAMMAR = Struct(
    "d" / Int16ul,
    "qs" / Array(64, Int8ul),
    "qh" / Array(8, Int8ul),
    "signs" / Array(32, Int8ul),
    "scales" / Array(4, Int8ul),
)

SEARCH = Search(
    grid="iq3_s", sub_block=32, reach=9, step=0.2, tiny=1e-45, even_signs=False, refit="all", fudge=1.033
)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """Without importance the error weights are the squares of the weights.

    ggml skips a sub-block of zeros without making room for its indices and signs: those of the sub-blocks
    after it move up, while `qh` and `scales` stay, so such a block does not decode to what was encoded. Same
    bytes, so it is the same here.
    """
    w = x * x if importance is None else error_weights(x, importance, f32(2) * ordered_sum(x * x) / f32(256))
    fits, d, packed = fit_super_block(x, w, SEARCH)
    points = [point for fit in fits for point in fit.points]
    kept = [fit for b, fit in enumerate(fits) if x[32 * b : 32 * b + 32].any()]
    low = [point & 255 for fit in kept for point in fit.points]
    signs = [bits for fit in kept for bits in fit.signs]
    return {
        "d": d,
        "qs": low + [0] * (64 - len(low)),
        "qh": [sum((points[first + i] >> 8) << i for i in range(8)) for first in range(0, 64, 8)],
        "signs": signs + [0] * (32 - len(signs)),
        "scales": pack_pairs(packed),
    }


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    points = grid("iq3_s").points
    sub_scales = unpack_pairs(fields["scales"])
    groups = []
    for i in range(64):
        point = fields["qs"][i] | (fields["qh"][i // 8] >> i % 8 & 1) << 8
        scale = d * f32(1 + 2 * sub_scales[i // 8])
        groups.append(signed(scale * points[point], fields["signs"][i // 2] >> 4 * (i % 2)))
    return np.concatenate(groups)


FORMAT = BlockFormat(
    name="IQ3_S",
    id=21,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (1 + 2 s) * grid * sign",
    summary="4 weights to a 9-bit grid index, all signs, 4-bit sub-scales per 32, "
    "one f16 scale per 256 weights",
    snr=15.57,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
