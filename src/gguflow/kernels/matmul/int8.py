"""Activations in eight bits, as llama.cpp has them when it multiplies, and what the integer products of all
formats share.

A block of 32 weights meets Q8_0 (one binary16 scale for 32 codes), a super-block of 256 meets Q8_K (one
binary32 scale for 256 codes; source: `quantize_row_q8_K_ref` in ggml-quants.c). Four neighbouring products of
codes are summed as integers in one lane (`lanes.dot4`); the sums become binary32 where the scale changes. The
codes of weights go in without a sign: `negated_sums` takes back what was added to them.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import nearest_int
from gguflow.kernels.lanes import dot4, load, load_u32, lookup16, splat, store, store_i32, store_u8, where
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.super_blocks import SIZE
from gguflow.kernels.types import F32s, I32s, I32x16, U8s

f32 = np.float32
i32 = np.int32

PADDING = 32
"""Zeros behind the codes, and behind their scales: kernels take two blocks at a time and sixteen scales, and
a row may hold an odd number.
"""

NIBBLES = i32(0x0F0F0F0F)
ONES = i32(0x01010101)


@kernel
def quantize_q8_k(x: F32s, codes: U8s, scales: F32s) -> None:
    """Encode n super-blocks of activations; the largest magnitude gets the code -127.

    x: float32[n * 256].
    codes: uint8[n * 256] or more, written: the int8 codes.
    scales: float32[n] or more, written.
    """
    for block in range(x.size // SIZE):
        peak = f32(0)
        for i in range(block * SIZE, (block + 1) * SIZE):
            if abs(x[i]) > abs(peak):
                peak = x[i]
        inverse = f32(-127) / peak
        if abs(inverse) == f32(np.inf):  # all are zeros, or too small for an inverse
            inverse = f32(0)
        for i in range(block * SIZE, (block + 1) * SIZE, 16):
            code = nearest_int(load(x, i) * inverse)
            store_u8(codes, i, where(code < 127, code, 127))
        scales[block] = f32(1) / inverse if inverse != f32(0) else f32(0)


@helper
def negated_sums(codes: U8s, added: int) -> I32s:
    """What a sum begins with where `added` was added to each code of the weights: -added * (the sum of codes
    4 j to 4 j + 3), int32[size / 4].
    """
    sums = np.empty(codes.size // 4, i32)
    for i in range(0, codes.size // 64 * 64, 64):
        store_i32(sums, i // 4, dot4(splat(0), splat(ONES), load_u32(codes, i)) * -added)
    for j in range(codes.size // 64 * 16, codes.size // 4):
        total = i32(0)
        for i in range(4 * j, 4 * j + 4):
            total += i32(np.int8(codes[i]))
        sums[j] = -added * total
    return sums


@helper
def lookup_bytes(table: I32x16, codes: I32x16) -> I32x16:
    """table[byte & 15] for each byte of 16 words; table: lanes of 0 to 255."""
    first = lookup16(table, codes) | lookup16(table << 8, codes >> 8)
    return first | lookup16(table << 16, codes >> 16) | lookup16(table << 24, codes >> 24)


@helper
def scale_by(scales: F32s, others: F32s, n_blocks: int) -> None:
    """scales[b] *= others[b], sixteen at a time: both hold n_blocks rounded up to 16."""
    for block in range(0, n_blocks, 16):
        store(scales, block, load(scales, block) * load(others, block))
