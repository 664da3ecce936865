"""Q5_K times a vector."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import (
    dot4,
    lane_numbers,
    load,
    load_u8,
    load_u32,
    load_u32_halves,
    lookup16,
    splat,
    store,
    sum_by_halves,
    to_float,
)
from gguflow.kernels.matmul.int8 import NIBBLES, ONES, PADDING
from gguflow.kernels.matmul.q4_k import minus_sub_sums, sub_steps
from gguflow.kernels.matmul.sums import fetch_ahead, fold
from gguflow.kernels.policy import kernel
from gguflow.kernels.q5_k import QH, QS, TYPE_SIZE
from gguflow.kernels.super_blocks import SIZE
from gguflow.kernels.types import F32s, U8s

f32 = np.float32


@kernel
def dot_rows(blocks: U8s, x: F32s, out: F32s) -> None:
    n_blocks = x.size // SIZE
    steps = np.empty(16 * n_blocks, f32)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        for block in range(n_blocks):
            store(steps, 16 * block, sub_steps(blocks, start + block * TYPE_SIZE))
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start, TYPE_SIZE)
            fifth = load_u8(blocks, start + QH) << 4  # bit j of a byte belongs to sub-block j
            more_fifth = load_u8(blocks, start + QH + 16) << 4
            for k in range(4):
                pairs = load_u8(blocks, start + QS + 32 * k)
                more_pairs = load_u8(blocks, start + QS + 32 * k + 16)
                i = SIZE * block + 64 * k
                step = steps[16 * block + 2 * k]
                offset = steps[16 * block + 2 * k + 8]
                q = (pairs & 15) | ((fifth >> (2 * k)) & 16)
                low = low + (to_float(q) * step - offset) * load(x, i)
                q = (more_pairs & 15) | ((more_fifth >> (2 * k)) & 16)
                high = high + (to_float(q) * step - offset) * load(x, i + 16)
                step = steps[16 * block + 2 * k + 1]
                offset = steps[16 * block + 2 * k + 9]
                q = (pairs >> 4) | ((fifth >> (2 * k + 1)) & 16)
                low = low + (to_float(q) * step - offset) * load(x, i + 32)
                q = (more_pairs >> 4) | ((more_fifth >> (2 * k + 1)) & 16)
                high = high + (to_float(q) * step - offset) * load(x, i + 48)
            start += TYPE_SIZE
        out[row] = fold(low, high)


@kernel
def dot_rows_int8(blocks: U8s, codes: U8s, x_scales: F32s, out: F32s) -> None:
    n_blocks = (codes.size - PADDING) // SIZE
    sub_sums = minus_sub_sums(codes, n_blocks)
    pair = (lane_numbers() >> 3) * 2  # as in q4_k.py
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        low = splat(f32(0))
        high = splat(f32(0))
        mins = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start, TYPE_SIZE)
            steps = sub_steps(blocks, start) * x_scales[block]
            mins = mins + steps * load(sub_sums, 16 * block)
            fifth = load_u32_halves(blocks, start + QH, start + QH) >> pair
            for j in range(0, 8, 4):
                pairs = load_u32(blocks, start + QS + 16 * j)
                i = SIZE * block + 32 * j
                weights = (pairs & NIBBLES) | (((fifth >> j) & ONES) << 4)
                sums = dot4(splat(0), weights, load_u32_halves(codes, i, i + 64))
                low = low + to_float(sums) * lookup16(steps, pair + j)
                weights = ((pairs >> 4) & NIBBLES) | (((fifth >> (j + 1)) & ONES) << 4)
                sums = dot4(splat(0), weights, load_u32_halves(codes, i + 32, i + 96))
                high = high + to_float(sums) * lookup16(steps, pair + (j + 1))
            start += TYPE_SIZE
        out[row] = sum_by_halves(low + high + mins)
