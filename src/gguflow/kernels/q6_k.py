"""Q6_K on lanes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels.bits import float_to_half, half_to_float, load_half, nearest_int
from gguflow.kernels.fits import TINY, clamp, fit_symmetric, largest_magnitude
from gguflow.kernels.lanes import (
    load,
    load_u8,
    splat,
    store,
    store_i32,
    store_onward,
    store_u8,
    to_float,
    vabs,
    where,
)
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.super_blocks import BATCH, SIZE, take_batch, take_importance, to_lanes
from gguflow.kernels.types import F32s, I32s, I32x16, U8s

f32 = np.float32
i32 = np.int32

TYPE_SIZE = 210
SUB_BLOCK = 16
N_SUB_BLOCKS = 16
QH, SCALES, D = 128, 192, 208  # byte offsets in a block


class SubBlocks(NamedTuple):
    """What the encoder knows of the 16 sub-blocks of 16 super-blocks: lanes [16 * 16] each, vector j for
    sub-block j.

    scales: fitted.
    inverses: the codes of the search are nearest_int(inverse * x) + 32, all 0 where inverse is 0.
    steps: d * scale, as a reader will compute it.
    codes: int32, the int8 scales.
    d: int32[16], half bits.
    """

    scales: F32s
    inverses: F32s
    steps: F32s
    codes: I32s
    d: I32s


@helper
def new_sub_blocks() -> SubBlocks:
    n = N_SUB_BLOCKS * BATCH
    return SubBlocks(
        np.empty(n, f32), np.empty(n, f32), np.empty(n, f32), np.empty(n, i32), np.empty(BATCH, i32)
    )


@helper
def fit_sub_block(subs: SubBlocks, j: int, x: F32s, w: F32s, wx: F32s) -> None:
    """Search sub-block j. x, w: its weights and theirs, float32[256]. wx: scratch of that size."""
    scale, inverse = fit_symmetric(x, w, wx, SUB_BLOCK, 32, True)
    store(subs.scales, 16 * j, scale)
    store(subs.inverses, 16 * j, inverse)


@helper
def fit_scales(subs: SubBlocks) -> None:
    """From the sub-blocks' scales: d, the int8 scales, and the steps that a reader will compute. A
    super-block of zeros has inverses of 0.
    """
    top = largest_magnitude(subs.scales, N_SUB_BLOCKS)
    alive = ~(vabs(top) < TINY)
    inverse = where(alive, f32(-128) / top, f32(0))
    d_bits = where(alive, float_to_half(f32(1) / inverse), 0)
    d = half_to_float(d_bits)
    store_i32(subs.d, 0, d_bits)
    for j in range(N_SUB_BLOCKS):
        scale = nearest_int(inverse * load(subs.scales, 16 * j))
        scale = where(scale < 127, scale, 127)
        store_i32(subs.codes, 16 * j, scale)
        store(subs.steps, 16 * j, d * to_float(scale))
        store(subs.inverses, 16 * j, where(alive, load(subs.inverses, 16 * j), f32(0)))


@helper
def codes16(batch: F32s, i: int, step: f32, inverse: f32) -> I32x16:
    """The codes of 16 weights from batch[i]. Where the step is 0, ggml keeps the codes of the search."""
    v = load(batch, i)
    if step != f32(0):
        return clamp(nearest_int(v / step), -32, 31) + 32
    if inverse != f32(0):
        return clamp(nearest_int(inverse * v), -32, 31) + 32
    return splat(0)


@helper
def write_blocks(batch: F32s, count: int, subs: SubBlocks, out: U8s, first: int) -> None:
    for k in range(count):
        start = (first + k) * TYPE_SIZE
        for half in range(2):
            for i in range(2):
                upper = splat(0)
                for t in range(2):
                    j = 8 * half + 2 * t + i
                    a = codes16(batch, k * SIZE + 16 * j, subs.steps[16 * j + k], subs.inverses[16 * j + k])
                    j += 4
                    b = codes16(batch, k * SIZE + 16 * j, subs.steps[16 * j + k], subs.inverses[16 * j + k])
                    store_u8(out, start + 64 * half + 32 * t + 16 * i, (a & 15) | ((b & 15) << 4))
                    upper = upper | ((a >> 4) << (2 * t)) | ((b >> 4) << (2 * t + 4))
                store_u8(out, start + QH + 32 * half + 16 * i, upper)
        for j in range(N_SUB_BLOCKS):
            out[start + SCALES + j] = np.uint8(subs.codes[16 * j + k] & 255)
        out[start + D] = np.uint8(subs.d[k] & 255)
        out[start + D + 1] = np.uint8(subs.d[k] >> 8)


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    lanes = np.empty(SUB_BLOCK * 16, f32)
    w = np.empty(SUB_BLOCK * 16, f32)
    wx = np.empty(SUB_BLOCK * 16, f32)
    subs = new_sub_blocks()
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        for j in range(N_SUB_BLOCKS):
            to_lanes(batch, SUB_BLOCK * j, SUB_BLOCK, lanes)
            for i in range(SUB_BLOCK):
                v = load(lanes, 16 * i)
                store(w, 16 * i, v * v)
            fit_sub_block(subs, j, lanes, w, wx)
        fit_scales(subs)
        write_blocks(batch, count, subs, out, first)
    return x.size


@kernel
def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    weights = np.empty(BATCH * SIZE, f32)
    lanes = np.empty(SUB_BLOCK * 16, f32)
    w = np.empty(SUB_BLOCK * 16, f32)
    wx = np.empty(SUB_BLOCK * 16, f32)
    subs = new_sub_blocks()
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        take_importance(importance, first, weights)
        for j in range(N_SUB_BLOCKS):
            to_lanes(batch, SUB_BLOCK * j, SUB_BLOCK, lanes)
            to_lanes(weights, SUB_BLOCK * j, SUB_BLOCK, w)
            fit_sub_block(subs, j, lanes, w, wx)
        fit_scales(subs)
        write_blocks(batch, count, subs, out, first)
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start + D)
        for half in range(2):
            for i in range(2):
                upper = load_u8(blocks, start + QH + 32 * half + 16 * i)
                for t in range(2):
                    pairs = load_u8(blocks, start + 64 * half + 32 * t + 16 * i)
                    a = (pairs & 15) | (((upper >> (2 * t)) & 3) << 4)
                    b = (pairs >> 4) | (((upper >> (2 * t + 4)) & 3) << 4)
                    j = 8 * half + 2 * t + i
                    step = d * f32(np.int8(blocks[start + SCALES + j]))
                    store_onward(out, block * SIZE + 16 * j, step * to_float(a - 32))
                    step = d * f32(np.int8(blocks[start + SCALES + j + 4]))
                    store_onward(out, block * SIZE + 16 * (j + 4), step * to_float(b - 32))
