"""Q3_K on lanes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels.bits import float_to_half, half_to_float, load_half, nearest_int
from gguflow.kernels.fits import TINY, clamp, code, fit_by_descent, fit_symmetric, largest_magnitude
from gguflow.kernels.lanes import (
    load,
    load_i32,
    load_u8,
    shift_right_signed,
    splat,
    store,
    store_i32,
    store_onward,
    store_u8,
    to_float,
    vabs,
    vsqrt,
    where,
)
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.super_blocks import BATCH, SIZE, sum_of_squares, take_batch, take_importance, to_lanes
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, U8s

f32 = np.float32
i32 = np.int32

TYPE_SIZE = 110
SUB_BLOCK = 16
N_SUB_BLOCKS = 16
LANES = 256  # of a sub-block: 16 vectors
QS, SCALES, D = 32, 96, 108  # byte offsets in a block


class SubBlocks(NamedTuple):
    """What the encoder knows of the 16 sub-blocks of 16 super-blocks: lanes, vector j for sub-block j.

    scales: float32[16 * 16].
    codes: float32[16 * 256], those of the search, 16 vectors for each sub-block.
    sixes: int32[16 * 16], the 6-bit scales.
    steps: float32[16 * 16], d times the decoded scale.
    d: int32[16], half bits.
    """

    scales: F32s
    codes: F32s
    sixes: I32s
    steps: F32s
    d: I32s


@helper
def new_sub_blocks() -> SubBlocks:
    n = N_SUB_BLOCKS * BATCH
    return SubBlocks(
        np.empty(n, f32),
        np.empty(N_SUB_BLOCKS * LANES, f32),
        np.empty(n, i32),
        np.empty(n, f32),
        np.empty(BATCH, i32),
    )


@helper
def fit_batch(batch: F32s, subs: SubBlocks) -> None:
    """Sub-blocks by coordinate descent; their scales by the largest."""
    x = np.empty(LANES, f32)
    w = np.empty(LANES, f32)
    for j in range(N_SUB_BLOCKS):
        to_lanes(batch, SUB_BLOCK * j, SUB_BLOCK, x)
        for i in range(SUB_BLOCK):
            v = load(x, 16 * i)
            store(w, 16 * i, v * v)
        codes = subs.codes[LANES * j : LANES * (j + 1)]
        store(subs.scales, 16 * j, fit_by_descent(x, w, codes, SUB_BLOCK, 4))
    top = largest_magnitude(subs.scales, N_SUB_BLOCKS)
    alive = top != f32(0)
    inverse = f32(-32) / top
    for j in range(N_SUB_BLOCKS):
        narrowed = shift_right_signed(nearest_int(inverse * load(subs.scales, 16 * j)) << 24, 24)
        store_i32(subs.sixes, 16 * j, where(alive, clamp(narrowed, -32, 31) + 32, 0))
    finish_scales(subs, where(alive, f32(1) / inverse, f32(0)))


@helper
def fit_batch_weighted(batch: F32s, importance: F32s, subs: SubBlocks) -> None:
    """Sub-blocks by 19 trial scales, their scales by the same search; importance: float32[4096], in the order
    of the batch.
    """
    x = np.empty(LANES, f32)
    w = np.empty(LANES, f32)
    wx = np.empty(LANES, f32)
    totals = np.empty(LANES, f32)
    variance = f32(2) * sum_of_squares(batch, x) / f32(SIZE)
    for j in range(N_SUB_BLOCKS):
        to_lanes(batch, SUB_BLOCK * j, SUB_BLOCK, x)
        to_lanes(importance, SUB_BLOCK * j, SUB_BLOCK, w)
        total = splat(f32(0))
        for i in range(SUB_BLOCK):
            v = load(x, 16 * i)
            u = load(w, 16 * i) * vsqrt(variance + v * v)
            total = total + u
            store(w, 16 * i, u)
        store(totals, 16 * j, total)
        scale, inverse = fit_symmetric(x, w, wx, SUB_BLOCK, 4, True)
        store(subs.scales, 16 * j, scale)
        for i in range(SUB_BLOCK):
            q = code(inverse * load(x, 16 * i), -4, 3) + f32(4)
            store(subs.codes, LANES * j + 16 * i, where(inverse != f32(0), q, f32(0)))
    d, inverse = fit_symmetric(subs.scales, totals, wx, N_SUB_BLOCKS, 32, False)
    # an inverse of 0 does not tell: it may come of an infinite scale
    dead = vabs(largest_magnitude(subs.scales, N_SUB_BLOCKS)) < TINY
    for j in range(N_SUB_BLOCKS):
        q = clamp(nearest_int(inverse * load(subs.scales, 16 * j)), -32, 31) + 32
        store_i32(subs.sixes, 16 * j, where(dead, 0, q))
    finish_scales(subs, d)


@helper
def finish_scales(subs: SubBlocks, d: F32x16) -> None:
    """The half bits of d, and the steps that a reader will compute."""
    d_bits = float_to_half(d)
    store_i32(subs.d, 0, d_bits)
    d = half_to_float(d_bits)
    for j in range(N_SUB_BLOCKS):
        store(subs.steps, 16 * j, d * to_float(load_i32(subs.sixes, 16 * j) - 32))


@helper
def codes16(batch: F32s, subs: SubBlocks, k: int, j: int, kept: I32s) -> I32x16:
    """The codes (0 to 7) of sub-block j of super-block k. Where the step is 0, ggml keeps the codes of the
    search. kept: scratch, int32[16].
    """
    step = subs.steps[16 * j + k]
    if step != f32(0):
        return clamp(nearest_int(load(batch, k * SIZE + SUB_BLOCK * j) / step), -4, 3) + 4
    for i in range(SUB_BLOCK):
        kept[i] = i32(subs.codes[LANES * j + 16 * i + k])
    return load_i32(kept, 0)


@helper
def write_blocks(batch: F32s, count: int, subs: SubBlocks, out: U8s, first: int) -> None:
    kept = np.empty(16, i32)
    for k in range(count):
        start = (first + k) * TYPE_SIZE
        for i in range(2):
            third = splat(0)
            for half in range(2):
                pairs = splat(0)
                for t in range(4):
                    q = codes16(batch, subs, k, 8 * half + 2 * t + i, kept)
                    pairs = pairs | ((q & 3) << (2 * t))
                    third = third | ((q >> 2) << (4 * half + t))
                store_u8(out, start + QS + 32 * half + 16 * i, pairs)
            store_u8(out, start + 16 * i, third)
        for j in range(8):
            low, high = subs.sixes[16 * j + k] & 15, subs.sixes[16 * (j + 8) + k] & 15
            out[start + SCALES + j] = np.uint8(low | (high << 4))
        for j in range(4):
            upper = 0
            for t in range(4):
                upper |= (subs.sixes[16 * (j + 4 * t) + k] >> 4) << (2 * t)
            out[start + SCALES + 8 + j] = np.uint8(upper)
        out[start + D] = np.uint8(subs.d[k] & 255)
        out[start + D + 1] = np.uint8(subs.d[k] >> 8)


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks()
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        fit_batch(batch, subs)
        write_blocks(batch, count, subs, out, first)
    return x.size


@kernel
def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    weights = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks()
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        take_importance(importance, first, weights)
        fit_batch_weighted(batch, weights, subs)
        write_blocks(batch, count, subs, out, first)
    return x.size


@helper
def scale_of(blocks: U8s, start: int, j: int) -> f32:
    """The 6-bit scale of sub-block j, less 32, as float32; its 12 packed bytes begin at byte `start`."""
    low = (i32(blocks[start + (j & 7)]) >> (4 * (j >> 3))) & 15
    upper = (i32(blocks[start + 8 + (j & 3)]) >> (2 * (j >> 2))) & 3
    return f32((low | (upper << 4)) - 32)


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start + D)
        for i in range(2):
            third = load_u8(blocks, start + 16 * i)
            for half in range(2):
                pairs = load_u8(blocks, start + QS + 32 * half + 16 * i)
                for t in range(4):
                    j = 8 * half + 2 * t + i
                    q = ((pairs >> (2 * t)) & 3) | (((third >> (4 * half + t)) & 1) << 2)
                    store_onward(
                        out, block * SIZE + 16 * j, d * scale_of(blocks, start + SCALES, j) * to_float(q - 4)
                    )
