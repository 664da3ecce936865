"""IQ4_XS times a vector."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.iq4 import VALUES
from gguflow.kernels.iq4_xs import N_SUB_BLOCKS, SUB_BLOCK, TYPE_SIZE
from gguflow.kernels.lanes import (
    dot4,
    lane_numbers,
    load,
    load_half_word,
    load_i32,
    load_u8,
    load_u32,
    load_u32_quarters,
    load_word,
    lookup16,
    splat,
    store,
    sum_by_halves,
    to_float,
    to_int,
)
from gguflow.kernels.matmul.halves import load_half
from gguflow.kernels.matmul.int8 import PADDING, lookup_bytes, negated_sums
from gguflow.kernels.matmul.sums import fetch_ahead, fold
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.super_blocks import SIZE
from gguflow.kernels.types import F32s, F32x16, Int, U8s

f32 = np.float32


@helper
def sub_scales(blocks: U8s, start: Int) -> F32x16:
    """Of the super-block at byte `start`: d * scale of its eight sub-blocks, as lanes, twice."""
    b = lane_numbers() & 7
    low = (splat(load_word(blocks, start + 4)) >> (4 * b)) & 15
    high = (splat(load_half_word(blocks, start + 2)) >> (2 * b)) & 3
    return to_float((low | (high << 4)) - 32) * load_half(blocks, start)


@kernel
def dot_rows(blocks: U8s, x: F32s, out: F32s) -> None:
    n_blocks = x.size // SIZE
    steps = np.empty(16 * n_blocks, f32)
    codes = load(VALUES, 0)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        for block in range(n_blocks):
            store(steps, 16 * block, sub_scales(blocks, start + block * TYPE_SIZE))
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start, TYPE_SIZE)
            for b in range(N_SUB_BLOCKS):
                values = codes * steps[16 * block + b]
                pairs = load_u8(blocks, start + 8 + 16 * b)
                i = SIZE * block + SUB_BLOCK * b
                low = low + lookup16(values, pairs) * load(x, i)
                high = high + lookup16(values, pairs >> 4) * load(x, i + 16)
            start += TYPE_SIZE
        out[row] = fold(low, high)


@kernel
def dot_rows_int8(blocks: U8s, codes: U8s, x_scales: F32s, out: F32s) -> None:
    n_blocks = (codes.size - PADDING) // SIZE
    start_sums = negated_sums(codes, 128)
    table = to_int(load(VALUES, 0)) + 128
    upper = lane_numbers() & 4  # 0 for the low nibbles of 16 bytes, 4 for the high ones of the same
    half = lane_numbers() >> 3
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        total = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start, TYPE_SIZE)
            steps = sub_scales(blocks, start) * x_scales[block]
            for b in range(0, N_SUB_BLOCKS, 2):
                at = start + 8 + 16 * b
                i = SIZE * block + SUB_BLOCK * b
                weights = lookup_bytes(table, load_u32_quarters(blocks, at, at, at + 16, at + 16) >> upper)
                sums = dot4(load_i32(start_sums, i // 4), weights, load_u32(codes, i))
                total = total + to_float(sums) * lookup16(steps, half + b)
            start += TYPE_SIZE
        out[row] = sum_by_halves(total)
