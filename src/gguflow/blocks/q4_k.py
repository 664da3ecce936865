"""Q4_K: 4-bit codes in eight sub-blocks of 32, each with a 6-bit scale and a 6-bit min of its own.

    byte   0  1 | 2  3 | 4 ....... 15 | 16 ..... 143
    field  d    | dmin | scales[12]   | qs[128]
           f16  | f16  | packed 6-bit | 4-bit pairs

    scales  byte 0..3    s4..s7 bits 5-4 | s0..s3       sj, mj: scale and min of sub-block j
            byte 4..7    m4..m7 bits 5-4 | m0..m3
            byte 8..11   m4..m7 bits 3-0 | s4..s7 bits 3-0
    qs      byte 32k+i   code i of sub-block 2k+1 in the high half, of 2k in the low half

weight i of sub-block j = d * sj * code - dmin * mj. 4.5 bits per weight. Source of the layout: `block_q4_K`
in ggml's ggml-common.h and `get_scale_min_k4` in ggml-quants.c; see spec/blocks/k-quants.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import Codes, Ladder, fit_positive, fit_scale_min, nearest_codes, ordered_sum

f32 = np.float32

BLOCK_SIZE = 256
SUB_BLOCK = 32
N_SUB_BLOCKS = 8

DTYPE = np.dtype([("d", "<u2"), ("dmin", "<u2"), ("scales", "u1", 12), ("qs", "u1", 128)])
GRAMMAR = Struct("d" / Int16ul, "dmin" / Int16ul, "scales" / Array(12, Int8ul), "qs" / Array(128, Int8ul))


class ScaledCodes(NamedTuple):
    """A super-block before its codes are packed."""

    d: int
    dmin: int
    scales: list[int]
    codes: Codes  # [8, 32]


def pack_scales(scales: Sequence[int], mins: Sequence[int]) -> list[int]:
    """Eight 6-bit scales and eight 6-bit mins -> 12 bytes. Of wider codes (see `fit_block`) the byte's upper
    bits are merged, as in ggml.
    """
    return [
        *((scales[j] | (scales[j + 4] >> 4) << 6) & 255 for j in range(4)),
        *((mins[j] | (mins[j + 4] >> 4) << 6) & 255 for j in range(4)),
        *(scales[j] & 15 | (mins[j] & 15) << 4 for j in range(4, 8)),
    ]


def unpack_scales(packed: Sequence[int]) -> tuple[list[int], list[int]]:
    """12 bytes -> eight scales, eight mins."""
    low, middle, high = packed[:4], packed[4:8], packed[8:]
    scales = [b & 63 for b in low] + [h & 15 | (b >> 6) << 4 for h, b in zip(high, low, strict=True)]
    mins = [b & 63 for b in middle] + [h >> 4 | (b >> 6) << 4 for h, b in zip(high, middle, strict=True)]
    return scales, mins


def fit_block(x: Floats, importance: Floats | None, n_max: int, ladder: Ladder, widest: int) -> ScaledCodes:
    """Scales, mins and codes 0 to n_max of a super-block.

    ladder: for the search without importance.
    widest: with importance, a negative scale wraps to a code of up to 255; Q5_K clamps it to 63, Q4_K does
        not, and packs what it has.
    """
    subs = x.reshape(N_SUB_BLOCKS, SUB_BLOCK)
    if importance is None:
        weights = [np.sqrt(ordered_sum(sub * sub) / f32(SUB_BLOCK)) + np.abs(sub) for sub in subs]
        fits = [fit_scale_min(sub, w, n_max, ladder) for sub, w in zip(subs, weights, strict=True)]
        d, scales = _to_six_bits([scale for scale, _, _ in fits])
        dmin, mins = _to_six_bits([minimum for _, minimum, _ in fits])
    else:
        variance = f32(2) * ordered_sum(x * x) / f32(BLOCK_SIZE)
        weights = list((importance * np.sqrt(variance + x * x)).reshape(subs.shape))
        fits = [
            fit_scale_min(sub, w, n_max, Ladder(-0.9, 0.05, 36)) for sub, w in zip(subs, weights, strict=True)
        ]
        totals = np.array([ordered_sum(w) for w in weights])
        top_scale, scale_codes = fit_positive(np.array([scale for scale, _, _ in fits]), totals, 63)
        top_min, min_codes = fit_positive(np.array([minimum for _, minimum, _ in fits]), totals, 63)
        d, dmin, scales, mins = (
            half_bits(top_scale),
            half_bits(top_min),
            np.minimum(scale_codes, widest).tolist(),
            np.minimum(min_codes, widest).tolist(),
        )
    packed = pack_scales(scales, mins)
    codes = np.array([fit_codes for _, _, fit_codes in fits])
    for j, (scale, minimum) in enumerate(zip(*unpack_scales(packed), strict=True)):
        step = half_value(d) * f32(scale)
        if step != 0:  # else the codes of the search stay
            codes[j] = nearest_codes((subs[j] + half_value(dmin) * f32(minimum)) / step, 0, n_max)
    return ScaledCodes(d, dmin, packed, codes)


def _to_six_bits(values: list[np.float32]) -> tuple[int, list[int]]:
    """The values divided by a 63rd of the largest: the half bits of that divisor, and the codes. ggml narrows
    a code to a byte, then clamps it.
    """
    top = max([f32(0), *values])
    inverse = f32(63) / top if top > 0 else f32(0)
    codes = nearest_codes(inverse * np.array(values), -(1 << 23), 1 << 23) & 255
    return half_bits(top / f32(63)), np.minimum(codes, 63).tolist()


def sub_steps(fields: Fields) -> list[tuple[np.float32, np.float32]]:
    """(d * scale, dmin * min) of each sub-block."""
    d, dmin = half_value(fields["d"]), half_value(fields["dmin"])
    return [
        (d * f32(scale), dmin * f32(minimum))
        for scale, minimum in zip(*unpack_scales(fields["scales"]), strict=True)
    ]


def pack_nibbles(codes: Codes) -> list[int]:
    """Codes 0 to 15 [8, 32] -> qs."""
    low, high = codes[0::2], codes[1::2]
    packed: list[int] = (low | high << 4).reshape(-1).tolist()
    return packed


def unpack_nibbles(qs: Sequence[int]) -> Codes:
    """qs -> codes [8, 32]."""
    pairs = np.array(qs, np.int32).reshape(4, SUB_BLOCK)
    return np.stack([pairs & 15, pairs >> 4], axis=1).reshape(N_SUB_BLOCKS, SUB_BLOCK)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """ggml's search: 22 trials per sub-block without importance, 38 with."""
    fit = fit_block(x, importance, 15, Ladder(-1.0, 0.1, 20), widest=255)
    return {"d": fit.d, "dmin": fit.dmin, "scales": fit.scales, "qs": pack_nibbles(fit.codes)}


def decode_block(fields: Fields) -> Floats:
    codes = unpack_nibbles(fields["qs"]).astype(f32)
    return np.concatenate(
        [step * sub - offset for sub, (step, offset) in zip(codes, sub_steps(fields), strict=True)]
    )


FORMAT = BlockFormat(
    name="Q4_K",
    id=12,
    block_size=BLOCK_SIZE,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * scale * q - dmin * min",
    summary="4-bit codes, eight sub-blocks of 32 with 6-bit scale and min",
    snr=22.92,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
