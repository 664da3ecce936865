"""Q4_K times a vector."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import (
    bytes_of_words,
    dot4,
    lane_numbers,
    load,
    load_u8,
    load_u32,
    load_u32_halves,
    load_word,
    lookup16,
    splat,
    store,
    sum_by_halves,
    to_float,
    where,
)
from gguflow.kernels.matmul.halves import load_half
from gguflow.kernels.matmul.int8 import NIBBLES, PADDING
from gguflow.kernels.matmul.sums import fetch_ahead, fold
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.q4_k import HEADER, TYPE_SIZE
from gguflow.kernels.super_blocks import SIZE
from gguflow.kernels.types import F32s, F32x16, Int, U8s

f32 = np.float32
i32 = np.int32
u32 = np.uint32

SIX_BITS, FOUR_BITS, TWO_BITS = u32(0x3F3F3F3F), u32(0x0F0F0F0F), u32(0x03030303)  # of each byte of a word


@helper
def sub_steps(blocks: U8s, start: Int) -> F32x16:
    """Of the super-block at byte `start`: d * scale of its eight sub-blocks, then dmin * min of each, as
    lanes. The layout: blocks/q4_k.py.
    """
    scales = load_word(blocks, start + 4)
    mins = load_word(blocks, start + 8)
    both = load_word(blocks, start + 12)
    more_scales = (both & FOUR_BITS) | (((scales >> u32(6)) & TWO_BITS) << u32(4))
    more_mins = ((both >> u32(4)) & FOUR_BITS) | (((mins >> u32(6)) & TWO_BITS) << u32(4))
    codes = bytes_of_words(scales & SIX_BITS, more_scales, mins & SIX_BITS, more_mins)
    d, dmin = load_half(blocks, start), load_half(blocks, start + 2)
    return where(lane_numbers() < 8, splat(d), splat(dmin)) * to_float(codes)


@kernel
def dot_rows(blocks: U8s, x: F32s, out: F32s) -> None:
    n_blocks = x.size // SIZE
    steps = np.empty(16 * n_blocks, f32)
    codes = to_float(lane_numbers())
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        for block in range(n_blocks):
            store(steps, 16 * block, sub_steps(blocks, start + block * TYPE_SIZE))
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start, TYPE_SIZE)
            for k in range(4):
                step = 16 * block + 2 * k
                values = codes * steps[step] - steps[step + 8]
                more_values = codes * steps[step + 1] - steps[step + 9]
                pairs = load_u8(blocks, start + HEADER + 32 * k)
                more_pairs = load_u8(blocks, start + HEADER + 32 * k + 16)
                i = SIZE * block + 64 * k
                low = low + lookup16(values, pairs) * load(x, i)
                high = high + lookup16(values, more_pairs) * load(x, i + 16)
                low = low + lookup16(more_values, pairs >> 4) * load(x, i + 32)
                high = high + lookup16(more_values, more_pairs >> 4) * load(x, i + 48)
            start += TYPE_SIZE
        out[row] = fold(low, high)


@helper
def minus_sub_sums(codes: U8s, n_blocks: int) -> F32s:
    """What the mins are multiplied with: of each super-block eight zeros, then the negated sums of its
    sub-blocks of activations, float32[16 n].
    """
    sums = np.zeros(16 * n_blocks, f32)
    for j in range(8 * n_blocks):
        total = i32(0)
        for i in range(32 * j, 32 * j + 32):
            total -= i32(np.int8(codes[i]))
        sums[j // 8 * 16 + 8 + j % 8] = f32(total)
    return sums


@kernel
def dot_rows_int8(blocks: U8s, codes: U8s, x_scales: F32s, out: F32s) -> None:
    n_blocks = (codes.size - PADDING) // SIZE
    sub_sums = minus_sub_sums(codes, n_blocks)
    # 64 bytes of nibbles are sub-blocks j and j + 2 in the low halves, j + 1 and j + 3 in the high ones
    pair = (lane_numbers() >> 3) * 2
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        low = splat(f32(0))
        high = splat(f32(0))
        mins = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start, TYPE_SIZE)
            steps = sub_steps(blocks, start) * x_scales[block]
            mins = mins + steps * load(sub_sums, 16 * block)
            for j in range(0, 8, 4):
                pairs = load_u32(blocks, start + HEADER + 16 * j)
                i = SIZE * block + 32 * j
                sums = dot4(splat(0), pairs & NIBBLES, load_u32_halves(codes, i, i + 64))
                low = low + to_float(sums) * lookup16(steps, pair + j)
                sums = dot4(splat(0), (pairs >> 4) & NIBBLES, load_u32_halves(codes, i + 32, i + 96))
                high = high + to_float(sums) * lookup16(steps, pair + (j + 1))
            start += TYPE_SIZE
        out[row] = sum_by_halves(low + high + mins)
