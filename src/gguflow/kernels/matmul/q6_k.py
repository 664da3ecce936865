"""Q6_K times a vector."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import (
    dot4,
    lane_numbers,
    load,
    load_i8,
    load_i32,
    load_u8,
    load_u32,
    load_u32_halves,
    lookup16,
    splat,
    store,
    sum_by_halves,
    to_float,
)
from gguflow.kernels.matmul.halves import load_half
from gguflow.kernels.matmul.int8 import NIBBLES, PADDING, negated_sums
from gguflow.kernels.matmul.sums import fetch_ahead, fold
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.q6_k import QH, SCALES, TYPE_SIZE, D
from gguflow.kernels.super_blocks import SIZE
from gguflow.kernels.types import F32s, F32x16, I32x16, Int, U8s

f32 = np.float32

TWO_BITS = np.int32(0x03030303)  # of each byte of a word


@helper
def sub_steps(blocks: U8s, start: Int) -> F32x16:
    """Of the super-block at byte `start`: d * scale of its sixteen sub-blocks, as lanes."""
    return to_float(load_i8(blocks, start + SCALES)) * load_half(blocks, start + D)


@helper
def term(low_bits: I32x16, high_bits: I32x16, step: f32, x: F32s, i: Int) -> F32x16:
    """step * (code - 32) * activations i to i + 15. low_bits: bits 0 to 3 of the codes; high_bits: bits 4 and
    5 in their place.
    """
    return to_float((low_bits | (high_bits & 48)) - 32) * step * load(x, i)


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
            for half in range(2):
                at = start + 64 * half
                i = SIZE * block + 128 * half
                j = 16 * block + 8 * half
                upper = load_u8(blocks, start + QH + 32 * half)
                pairs = load_u8(blocks, at)
                more = load_u8(blocks, at + 32)
                low = low + term(pairs & 15, upper << 4, steps[j], x, i)
                low = low + term(more & 15, upper << 2, steps[j + 2], x, i + 32)
                low = low + term(pairs >> 4, upper, steps[j + 4], x, i + 64)
                low = low + term(more >> 4, upper >> 2, steps[j + 6], x, i + 96)
                upper = load_u8(blocks, start + QH + 32 * half + 16)
                pairs = load_u8(blocks, at + 16)
                more = load_u8(blocks, at + 48)
                high = high + term(pairs & 15, upper << 4, steps[j + 1], x, i + 16)
                high = high + term(more & 15, upper << 2, steps[j + 3], x, i + 48)
                high = high + term(pairs >> 4, upper, steps[j + 5], x, i + 80)
                high = high + term(more >> 4, upper >> 2, steps[j + 7], x, i + 112)
            start += TYPE_SIZE
        out[row] = fold(low, high)


@kernel
def dot_rows_int8(blocks: U8s, codes: U8s, x_scales: F32s, out: F32s) -> None:
    n_blocks = (codes.size - PADDING) // SIZE
    start_sums = negated_sums(codes, 32)
    quarter = lane_numbers() >> 2
    # the bits above the nibbles of bytes 32 to 63 lie two higher than those of bytes 0 to 31
    second = (lane_numbers() >> 3) * 2
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            fetch_ahead(blocks, start, TYPE_SIZE)
            steps = sub_steps(blocks, start) * x_scales[block]
            for half in range(2):
                pairs = load_u32(blocks, start + 64 * half)
                upper = load_u32_halves(blocks, start + QH + 32 * half, start + QH + 32 * half) >> second
                i = SIZE * block + 128 * half
                weights = (pairs & NIBBLES) | ((upper & TWO_BITS) << 4)
                sums = dot4(load_i32(start_sums, i // 4), weights, load_u32(codes, i))
                low = low + to_float(sums) * lookup16(steps, quarter + 8 * half)
                i += 64
                weights = ((pairs >> 4) & NIBBLES) | (((upper >> 4) & TWO_BITS) << 4)
                sums = dot4(load_i32(start_sums, i // 4), weights, load_u32(codes, i))
                high = high + to_float(sums) * lookup16(steps, quarter + (8 * half + 4))
            start += TYPE_SIZE
        out[row] = sum_by_halves(low + high)
