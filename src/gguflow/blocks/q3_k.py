"""Q3_K: 3-bit codes in sixteen sub-blocks of 16, each with a 6-bit scale of its own.

    byte   0 ..... 31 | 32 ..... 95 | 96 .... 107  | 108 109
    field  hmask[32]  | qs[64]      | scales[12]   | d
           third bits | 2-bit pairs | packed 6-bit | f16

    hmask   byte i       bit t is the third bit of the code of weight 32t+i
    qs      byte 32h+i   bits 7-6 | 5-4 | 3-2 | 1-0  are the lower bits of the codes of weights 96+i, 64+i,
            32+i, i of half h, i = 0 ... 31 scales  byte 0..7    s8..s15 bits 3-0 | s0..s7 bits 3-0       sj:
            scale of sub-block j, plus 32
            byte 8..11   bits 5-4 of s12..s15 | s8..s11 | s4..s7 | s0..s3

weight i of sub-block j = d * (sj - 32) * (code - 4). 3.4375 bits per weight. Source of the layout:
`block_q3_K` in ggml's ggml-common.h; see spec/blocks/k-quants.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import fit_by_descent, fit_symmetric, nearest_codes, ordered_sum
from gguflow.blocks.q2_k import pack_pairs, unpack_pairs

f32 = np.float32

BLOCK_SIZE = 256
SUB_BLOCK = 16

DTYPE = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<u2")])
GRAMMAR = Struct(
    "hmask" / Array(32, Int8ul), "qs" / Array(64, Int8ul), "scales" / Array(12, Int8ul), "d" / Int16ul
)

_BITS = np.arange(8).reshape(8, 1)


def pack_scales(scales: Sequence[int]) -> list[int]:
    """Sixteen 6-bit scales -> 12 bytes."""
    nibbles = [scales[j] & 15 | (scales[j + 8] & 15) << 4 for j in range(8)]
    return nibbles + [sum((scales[j + 4 * t] >> 4) << 2 * t for t in range(4)) for j in range(4)]


def unpack_scales(packed: Sequence[int]) -> list[int]:
    """12 bytes -> sixteen scales, 0 to 63."""
    return [
        (packed[j % 8] >> 4 * (j // 8)) & 15 | ((packed[8 + j % 4] >> 2 * (j // 4)) & 3) << 4
        for j in range(16)
    ]


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """ggml's search: coordinate descent on the codes without importance; with it 19 trial scales, for the
    sub-blocks and for their scales.
    """
    subs = x.reshape(16, SUB_BLOCK)
    if importance is None:
        fits = [fit_by_descent(sub, 4) for sub in subs]
        d, scales = _to_six_bits(np.array([scale for scale, _ in fits]))
    else:
        variance = f32(2) * ordered_sum(x * x) / f32(BLOCK_SIZE)
        weights = (importance * np.sqrt(variance + x * x)).reshape(subs.shape)
        fits = [fit_symmetric(sub, w, 4) for sub, w in zip(subs, weights, strict=True)]
        top, codes_of_scales = fit_symmetric(
            np.array([scale for scale, _ in fits]), np.array([ordered_sum(w) for w in weights]), 32
        )
        d, scales = half_bits(top), codes_of_scales.tolist()
    codes = np.array([fit_codes for _, fit_codes in fits])
    for j, scale in enumerate(scales):
        step = half_value(d) * f32(scale - 32)
        if step != 0:  # else the codes of the search stay
            codes[j] = nearest_codes(subs[j] / step, -4, 3) + 4
    hmask = np.sum(codes.reshape(8, 32) >> 2 << _BITS, axis=0)
    return {"hmask": hmask.tolist(), "qs": pack_pairs(codes & 3), "scales": pack_scales(scales), "d": d}


def _to_six_bits(values: Floats) -> tuple[int, list[int]]:
    """The half bits of d, and the scales plus 32: the one of largest magnitude becomes 0, all of them where
    it is 0.
    """
    top = f32(0)
    for v in values:
        if abs(v) > abs(top):
            top = v
    if top == 0:
        return 0, [0] * 16
    inverse = f32(-32) / top
    narrowed = nearest_codes(inverse * values, -(1 << 23), 1 << 23).astype(np.int8)
    return half_bits(f32(1) / inverse), (np.clip(narrowed, -32, 31) + 32).tolist()


def decode_block(fields: Fields) -> Floats:
    steps = half_value(fields["d"]) * (np.array(unpack_scales(fields["scales"])) - 32).astype(f32)
    third = (np.array(fields["hmask"]) >> _BITS & 1).reshape(-1)
    codes = unpack_pairs(fields["qs"]) + 4 * third - 4
    return np.repeat(steps, SUB_BLOCK) * codes.astype(f32)


FORMAT = BlockFormat(
    name="Q3_K",
    id=11,
    block_size=BLOCK_SIZE,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (scale - 32) * (q - 4)",
    summary="3-bit codes, sixteen sub-blocks of 16 with 6-bit scale",
    snr=16.43,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
