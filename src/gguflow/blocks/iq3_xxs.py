"""IQ3_XXS: groups of 4 weights on a grid of 256 points, 8 sub-blocks of 32 with 4-bit sub-scales under one
scale.

    byte   0  1 | 2 ......................... 65 | 66 ......................... 97
    field  d    | qs[96]
           f16  | qs[i]: the index of group i    | qs[64 + 4 b] ... qs[67 + 4 b], a little-endian word for
                sub-block b:
                |                                |   four times 7 signs from bit 0 up, the sub-scale in bits
                                                 28 to 31

weight i = d * (0.5 + s) / 2 * grid value * sign; the eighth sign of 8 weights makes the number of minus signs
even. 3.0625 bits per weight. Source of the layout: `block_iq3_xxs` in ggml's ggml-common.h; see
spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_value
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.grid_search import Search, error_weights, fit_super_block
from gguflow.blocks.grids import even_signs, grid, signed

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("qs", "u1", 96)])
GRAMMAR = Struct("d" / Int16ul, "qs" / Array(96, Int8ul))

SEARCH = Search(
    grid="iq3_xxs",
    sub_block=32,
    reach=15,
    step=0.2,
    tiny=1e-8,
    even_signs=True,
    refit="off grid",
    fudge=1.0125,
)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """Without importance the error weights are the squares of the weights."""
    w = x * x if importance is None else error_weights(x, importance, f32(2) * ordered_sum(x * x) / f32(256))
    fits, d, packed = fit_super_block(x, w, SEARCH)
    if not any(f.scale for f in fits):
        return {"d": 0, "qs": [0] * 96}
    qs = [point for fit in fits for point in fit.points]
    for fit, sub_scale in zip(fits, packed, strict=True):
        word = sum(bits << 7 * i for i, bits in enumerate(fit.signs)) | sub_scale << 28
        qs += word.to_bytes(4, "little")
    return {"d": d, "qs": qs}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    points = grid("iq3_xxs").points
    qs = fields["qs"]
    groups = []
    for i in range(32):
        b = i // 4
        word = int.from_bytes(bytes(qs[64 + 4 * b : 68 + 4 * b]), "little")
        scale = d * (f32(0.5) + f32(word >> 28)) * f32(0.5)
        both = np.concatenate([points[qs[2 * i]], points[qs[2 * i + 1]]])
        groups.append(signed(scale * both, even_signs(word >> 7 * (i % 4) & 127)))
    return np.concatenate(groups)


FORMAT = BlockFormat(
    name="IQ3_XXS",
    id=18,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (0.5 + s) / 2 * grid * sign",
    summary="4 weights to an 8-bit grid index, 7 signs for 8, 4-bit sub-scales per 32, "
    "one f16 scale per 256 weights",
    snr=13.4,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
