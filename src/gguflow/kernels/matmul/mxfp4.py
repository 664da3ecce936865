"""MXFP4 times a vector."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.fp4 import values as fp4_values
from gguflow.kernels.lanes import (
    bits_float,
    dot4,
    lane_numbers,
    load,
    load_half_word,
    load_i32,
    load_u8,
    load_u32,
    load_u32_quarters,
    lookup16,
    splat,
    store,
    sum_by_halves,
    to_float,
    to_int,
    where,
)
from gguflow.kernels.matmul.int8 import PADDING, lookup_bytes, negated_sums, scale_by
from gguflow.kernels.matmul.sums import fetch_ahead, fold, scratch
from gguflow.kernels.mxfp4 import BLOCK_SIZE, TYPE_SIZE
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, Int, U8s

f32 = np.float32

LARGEST = 12  # of the doubled values


@helper
def half_steps(e: I32x16) -> F32x16:
    """2**(e - 128) for lanes of stored exponents 0 to 255: half of what E8M0 says, because the E2M1 values
    are doubled.
    """
    return bits_float(where(e < 2, splat(0x200000) << e, (e - 1) << 23))


@helper
def load_scales(blocks: U8s, start: Int, n_blocks: int, exponents: I32s, scales: F32s) -> None:
    """As that of halves.py, for the exponents that begin these blocks."""
    for block in range(n_blocks):
        exponents[block] = load_half_word(blocks, start + TYPE_SIZE * block) & 255
    for block in range(0, n_blocks, 16):
        store(scales, block, half_steps(load_i32(exponents, block)))


@kernel
def dot_rows(blocks: U8s, x: F32s, out: F32s) -> None:
    n_blocks = x.size // BLOCK_SIZE
    exponents, scales = scratch(n_blocks)
    codes = fp4_values(lane_numbers())
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        load_scales(blocks, start, n_blocks, exponents, scales)
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start + TYPE_SIZE * block, TYPE_SIZE)
            values = codes * scales[block]
            pairs = load_u8(blocks, start + TYPE_SIZE * block + 1)
            low = low + lookup16(values, pairs) * load(x, BLOCK_SIZE * block)
            high = high + lookup16(values, pairs >> 4) * load(x, BLOCK_SIZE * block + 16)
        out[row] = fold(low, high)


@kernel
def dot_rows_int8(blocks: U8s, codes: U8s, x_scales: F32s, out: F32s) -> None:
    n_blocks = (codes.size - PADDING) // BLOCK_SIZE
    exponents, scales = scratch(n_blocks + 16)
    start_sums = negated_sums(codes, LARGEST)
    table = to_int(fp4_values(lane_numbers())) + LARGEST
    upper = lane_numbers() & 4  # 0 for the low nibbles of 16 bytes, 4 for the high ones of the same
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        load_scales(blocks, start, n_blocks, exponents, scales)
        scale_by(scales, x_scales, n_blocks)
        total = splat(f32(0))
        for block in range(0, n_blocks, 2):
            first = start + TYPE_SIZE * block + 1
            fetch_ahead(blocks, first, 2 * TYPE_SIZE)
            second = first + TYPE_SIZE if block + 1 < n_blocks else first
            weights = lookup_bytes(table, load_u32_quarters(blocks, first, first, second, second) >> upper)
            sums = dot4(load_i32(start_sums, 8 * block), weights, load_u32(codes, BLOCK_SIZE * block))
            total = total + to_float(sums) * lookup16(load(scales, block), lane_numbers() >> 3)
        out[row] = sum_by_halves(total)
