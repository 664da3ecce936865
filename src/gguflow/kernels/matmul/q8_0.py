"""Q8_0 times a vector."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import (
    dot4,
    lane_numbers,
    load,
    load_i8,
    load_i32,
    load_u32,
    load_u32_halves,
    lookup16,
    splat,
    sum_by_halves,
    to_float,
)
from gguflow.kernels.matmul.halves import load_scales
from gguflow.kernels.matmul.int8 import PADDING, negated_sums, scale_by
from gguflow.kernels.matmul.sums import fetch_ahead, fold, scratch
from gguflow.kernels.policy import kernel
from gguflow.kernels.q8_0 import BLOCK_SIZE, TYPE_SIZE
from gguflow.kernels.types import F32s, U8s

f32 = np.float32

SIGNS = np.int32(-0x7F7F7F80)  # of four bytes: flipped, codes -128 to 127 become 0 to 255


@kernel
def dot_rows(blocks: U8s, x: F32s, out: F32s) -> None:
    n_blocks = x.size // BLOCK_SIZE
    words, scales = scratch(n_blocks)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        load_scales(blocks, start, TYPE_SIZE, n_blocks, words, scales)
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start + TYPE_SIZE * block, TYPE_SIZE)
            d = scales[block]
            codes = start + TYPE_SIZE * block + 2
            low = low + to_float(load_i8(blocks, codes)) * d * load(x, BLOCK_SIZE * block)
            high = high + to_float(load_i8(blocks, codes + 16)) * d * load(x, BLOCK_SIZE * block + 16)
        out[row] = fold(low, high)


@kernel
def dot_rows_int8(blocks: U8s, codes: U8s, x_scales: F32s, out: F32s) -> None:
    n_blocks = (codes.size - PADDING) // BLOCK_SIZE
    words, scales = scratch(n_blocks + 16)
    start_sums = negated_sums(codes, 128)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        load_scales(blocks, start, TYPE_SIZE, n_blocks, words, scales)
        scale_by(scales, x_scales, n_blocks)
        total = splat(f32(0))
        for block in range(0, n_blocks, 2):
            first = start + TYPE_SIZE * block + 2
            fetch_ahead(blocks, first, 2 * TYPE_SIZE)
            second = first + TYPE_SIZE if block + 1 < n_blocks else first
            weights = load_u32_halves(blocks, first, second) ^ SIGNS
            sums = dot4(load_i32(start_sums, 8 * block), weights, load_u32(codes, BLOCK_SIZE * block))
            total = total + to_float(sums) * lookup16(load(scales, block), lane_numbers() >> 3)
        out[row] = sum_by_halves(total)
