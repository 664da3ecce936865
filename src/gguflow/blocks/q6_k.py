"""Q6_K: 6-bit codes in sixteen sub-blocks of 16, each with an 8-bit scale of its own.

    byte   0 .... 127 | 128 .... 191 | 192 ..... 207 | 208 209
    field  ql[128]    | qh[64]       | scales[16]    | d
           low nibbles| upper 2 bits | int8          | f16

For each half of the super-block (128 weights, h = 0, 1), and i = 0 ... 31:

    ql  byte 64h+i       code of weight 64+i in the high nibble, of weight i in the low
        byte 64h+32+i    code of weight 96+i in the high nibble, of weight 32+i in the low
    qh  byte 32h+i       bits 7-6 | 5-4 | 3-2 | 1-0  of the codes of weights 96+i, 64+i, 32+i, i

weight i of sub-block j = d * scales[j] * (code - 32). 6.5625 bits per weight. Source of the layout:
`block_q6_K` in ggml's ggml-common.h; see spec/blocks/k-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8sl, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import TINY, Codes, fit_symmetric, nearest_codes

f32 = np.float32

BLOCK_SIZE = 256
SUB_BLOCK = 16

DTYPE = np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<u2")])
GRAMMAR = Struct(
    "ql" / Array(128, Int8ul), "qh" / Array(64, Int8ul), "scales" / Array(16, Int8sl), "d" / Int16ul
)


def pack_codes(codes: Codes) -> tuple[list[int], list[int]]:
    """256 codes of 6 bits -> ql, qh."""
    quarters = codes.reshape(2, 4, 32)
    ql = quarters[:, :2] & 15 | (quarters[:, 2:] & 15) << 4
    qh = sum(quarters[:, t] >> 4 << 2 * t for t in range(4))
    return ql.reshape(-1).tolist(), np.reshape(qh, -1).tolist()


def unpack_codes(ql: list[int], qh: list[int]) -> Codes:
    """ql, qh -> 256 codes."""
    low = np.array(ql, np.int32).reshape(2, 2, 32)
    upper = np.array(qh, np.int32).reshape(2, 1, 32) >> np.array([0, 2, 4, 6]).reshape(4, 1) & 3
    codes: Codes = np.concatenate([low & 15, low >> 4], axis=1) | upper << 4
    return codes.reshape(-1)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """ggml's search: 19 trials per sub-block, weighted by x**2 or by the importance as it is."""
    subs = x.reshape(16, SUB_BLOCK)
    weights = (x * x if importance is None else importance).reshape(subs.shape)
    fits = [fit_symmetric(sub, w, 32) for sub, w in zip(subs, weights, strict=True)]
    top = f32(0)
    for scale, _ in fits:
        if abs(scale) > abs(top):
            top = scale
    if abs(top) < TINY:
        return {"ql": [0] * 128, "qh": [0] * 64, "scales": [0] * 16, "d": 0}
    inverse = f32(-128) / top
    d = half_bits(f32(1) / inverse)
    scales = nearest_codes(inverse * np.array([scale for scale, _ in fits]), -(1 << 23), 127).astype(np.int8)
    codes = np.concatenate([fit_codes for _, fit_codes in fits]).reshape(subs.shape)
    for j, sub in enumerate(subs):
        step = half_value(d) * f32(scales[j])
        if step != 0:  # else the codes of the search stay
            codes[j] = nearest_codes(sub / step, -32, 31) + 32
    ql, qh = pack_codes(codes.reshape(-1))
    return {"ql": ql, "qh": qh, "scales": scales.tolist(), "d": d}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    steps = d * np.array(fields["scales"], f32)
    codes = unpack_codes(fields["ql"], fields["qh"]) - 32
    return np.repeat(steps, SUB_BLOCK) * codes.astype(f32)


FORMAT = BlockFormat(
    name="Q6_K",
    id=14,
    block_size=BLOCK_SIZE,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * scale * (q - 32)",
    summary="6-bit codes, sixteen sub-blocks of 16 with 8-bit scale",
    snr=35.01,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
