"""Q2_K: 2-bit codes in sixteen sub-blocks of 16, each with a 4-bit scale and a 4-bit min of its own.

    byte   0 ........ 15 | 16 ..... 79 | 80 81 | 82 83
    field  scales[16]    | qs[64]      | d     | dmin
           min, scale    | 2-bit codes | f16   | f16

    scales  byte j       min of sub-block j in the high nibble, scale in the low
    qs      byte 32h+i   bits 7-6 | 5-4 | 3-2 | 1-0  are the codes of weights 96+i, 64+i, 32+i, i of half h
            (128 weights), i = 0 ... 31

weight i of sub-block j = d * scale * code - dmin * min. 2.625 bits per weight. Source of the layout:
`block_q2_K` in ggml's ggml-common.h; see spec/blocks/k-quants.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import Codes, Ladder, fit_positive, fit_scale_min, nearest_codes, ordered_sum

f32 = np.float32

BLOCK_SIZE = 256
SUB_BLOCK = 16
N_SUB_BLOCKS = 16

DTYPE = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<u2"), ("dmin", "<u2")])
GRAMMAR = Struct("scales" / Array(16, Int8ul), "qs" / Array(64, Int8ul), "d" / Int16ul, "dmin" / Int16ul)

_SHIFTS = np.array([0, 2, 4, 6], np.int32).reshape(4, 1)


def pack_pairs(codes: Codes) -> list[int]:
    """256 codes 0 to 3 -> qs."""
    packed: list[int] = np.sum(codes.reshape(2, 4, 32) << _SHIFTS, axis=1).reshape(-1).tolist()
    return packed


def unpack_pairs(qs: Sequence[int]) -> Codes:
    """qs -> 256 codes 0 to 3."""
    codes: Codes = np.array(qs, np.int32).reshape(2, 1, 32) >> _SHIFTS & 3
    return codes.reshape(-1)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """ggml's search: 17 trials per sub-block without importance, 38 with."""
    subs = x.reshape(N_SUB_BLOCKS, SUB_BLOCK)
    if importance is None:
        fits = [fit_scale_min(sub, np.abs(sub), 3, Ladder(-0.5, 0.1, 15), absolute=True) for sub in subs]
        d, scale_codes = _to_four_bits([scale for scale, _, _ in fits])
        dmin, min_codes = _to_four_bits([minimum for _, minimum, _ in fits])
    else:
        weights = (importance * np.sqrt(ordered_sum(x * x) / f32(BLOCK_SIZE) + x * x)).reshape(subs.shape)
        fits = [
            fit_scale_min(sub, w, 3, Ladder(-0.9, 0.05, 36)) for sub, w in zip(subs, weights, strict=True)
        ]
        totals = np.array([ordered_sum(w) for w in weights])
        top_scale, scale_codes = fit_positive(np.array([scale for scale, _, _ in fits]), totals, 15)
        top_min, min_codes = fit_positive(np.array([minimum for _, minimum, _ in fits]), totals, 15)
        d, dmin = half_bits(top_scale), half_bits(top_min)
    scales = (scale_codes | min_codes << 4) & 255
    codes = np.array([fit_codes for _, _, fit_codes in fits])
    for j, packed in enumerate(scales):
        step = half_value(d) * f32(packed & 15)
        if step != 0:  # else the codes of the search stay
            codes[j] = nearest_codes((subs[j] + half_value(dmin) * f32(packed >> 4)) / step, 0, 3)
    return {"scales": scales.tolist(), "qs": pack_pairs(codes), "d": d, "dmin": dmin}


def _to_four_bits(values: list[np.float32]) -> tuple[int, Codes]:
    """The values divided by a 15th of the largest: the half bits of that divisor, and the codes. A code is
    kept in a byte: a negative one wraps.
    """
    top = max([f32(0), *values])
    inverse = f32(15) / top if top > 0 else f32(0)
    return half_bits(top / f32(15)), nearest_codes(inverse * np.array(values), -(1 << 23), 1 << 23) & 255


def decode_block(fields: Fields) -> Floats:
    scales = np.array(fields["scales"])
    steps = half_value(fields["d"]) * (scales & 15).astype(f32)
    offsets = half_value(fields["dmin"]) * (scales >> 4).astype(f32)
    return np.repeat(steps, SUB_BLOCK) * unpack_pairs(fields["qs"]).astype(f32) - np.repeat(
        offsets, SUB_BLOCK
    )


FORMAT = BlockFormat(
    name="Q2_K",
    id=10,
    block_size=BLOCK_SIZE,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * scale * q - dmin * min",
    summary="2-bit codes, sixteen sub-blocks of 16 with 4-bit scale and min",
    snr=10.55,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
