"""Q4_K on lanes. The fit of scales and mins, and their 6-bit packing, serve Q5_K as well."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguflow.kernels.bits import float_to_half, half_to_float, load_half, nearest_int
from gguflow.kernels.policy import kernel
from gguflow.kernels.search import clamp, fit_positive, fit_scale_min
from gguflow.kernels.super_blocks import BATCH, SIZE, sum_of_squares, take_batch, take_importance, to_lanes
from gguflow.lanes import load, load_u8, splat, store, store_i32, store_u8, to_float, vabs, vsqrt, where

f32 = np.float32
i32 = np.int32

TYPE_SIZE = 144
SUB_BLOCK = 32
N_SUB_BLOCKS = 8
HEADER = 16  # bytes before the codes: d, dmin, scales


class SubBlocks(NamedTuple):
    """What the encoder knows of the eight sub-blocks of 16 super-blocks: lanes float32[8 * 16] each, vector j for sub-block j.

    inverses, bases: the codes of the search are nearest_int(inverse * (x - base)). steps, offsets: decoded, they give d * scale and dmin * min.
    """

    scales: Any
    mins: Any
    weights: Any
    inverses: Any
    bases: Any
    steps: Any
    offsets: Any
    header: Any  # int32[4 * 16]: the first 16 bytes of each block, as four little-endian words


@kernel
def new_sub_blocks() -> Any:
    n = N_SUB_BLOCKS * BATCH
    return SubBlocks(
        np.empty(n, f32),
        np.empty(n, f32),
        np.empty(n, f32),
        np.empty(n, f32),
        np.empty(n, f32),
        np.empty(n, f32),
        np.empty(n, f32),
        np.empty(64, i32),
    )


@kernel
def fit_batch(batch: Any, subs: Any, n_max: int, first: Any, step: Any, last: int) -> None:
    """Fit the sub-blocks of a batch without importance, and pack their scales."""
    x = np.empty(SUB_BLOCK * 16, f32)
    w = np.empty(SUB_BLOCK * 16, f32)
    codes = np.empty(SUB_BLOCK * 16, f32)
    for j in range(N_SUB_BLOCKS):
        to_lanes(batch, SUB_BLOCK * j, SUB_BLOCK, x)
        squares = splat(f32(0))
        for i in range(SUB_BLOCK):
            v = load(x, 16 * i)
            squares = squares + v * v
        rms = vsqrt(squares / f32(SUB_BLOCK))
        for i in range(SUB_BLOCK):
            store(w, 16 * i, rms + vabs(load(x, 16 * i)))
        keep_fit(subs, j, fit_scale_min(x, w, codes, SUB_BLOCK, n_max, first, step, last, False))
    d = to_six_bits(subs.scales)
    dmin = to_six_bits(subs.mins)
    pack_header(subs, d, dmin)


@kernel
def fit_batch_weighted(batch: Any, importance: Any, subs: Any, n_max: int, widest: int) -> None:
    """Fit the sub-blocks of a batch with importance (float32[4096], in the order of the batch), and pack their scales; see blocks.q4_k.fit_block."""
    x = np.empty(SUB_BLOCK * 16, f32)
    w = np.empty(SUB_BLOCK * 16, f32)
    codes = np.empty(SUB_BLOCK * 16, f32)
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
        store(subs.weights, 16 * j, total)
        keep_fit(subs, j, fit_scale_min(x, w, codes, SUB_BLOCK, n_max, f32(-0.9), f32(0.05), 36, False))
    d = fit_positive(subs.scales, subs.weights, codes, N_SUB_BLOCKS, 63)
    keep_codes(codes, subs.scales, widest)
    dmin = fit_positive(subs.mins, subs.weights, codes, N_SUB_BLOCKS, 63)
    keep_codes(codes, subs.mins, widest)
    pack_header(subs, d, dmin)


@kernel
def keep_fit(subs: Any, j: int, fit: Any) -> None:
    scale, low, inverse, base = fit
    store(subs.scales, 16 * j, scale)
    store(subs.mins, 16 * j, -low)
    store(subs.inverses, 16 * j, inverse)
    store(subs.bases, 16 * j, base)


@kernel
def keep_codes(codes: Any, target: Any, widest: int) -> None:
    for j in range(N_SUB_BLOCKS):
        q = load(codes, 16 * j)
        store(target, 16 * j, where(q < f32(widest), q, f32(widest)))


@kernel
def to_six_bits(values: Any) -> Any:
    """Replace the eight vectors by their codes in 63rds of the largest; returns that 63rd. ggml narrows a code to a byte, then clamps it."""
    top = splat(f32(0))
    for j in range(N_SUB_BLOCKS):
        v = load(values, 16 * j)
        top = where(v > top, v, top)
    inverse = where(top > f32(0), f32(63) / top, f32(0))
    for j in range(N_SUB_BLOCKS):
        q = nearest_int(inverse * load(values, 16 * j)) & 255
        store(values, 16 * j, to_float(where(q < 63, q, 63)))
    return top / f32(63)


@kernel
def pack_header(subs: Any, d: Any, dmin: Any) -> None:
    """From d, dmin and the codes in subs.scales and subs.mins: the header words, and the steps and offsets that a reader will compute."""
    d_bits = float_to_half(d)
    dmin_bits = float_to_half(dmin)
    d = half_to_float(d_bits)
    dmin = half_to_float(dmin_bits)
    low = splat(0)
    middle = splat(0)
    high = splat(0)
    for j in range(4):
        scale = nearest_int(load(subs.scales, 16 * j))
        minimum = nearest_int(load(subs.mins, 16 * j))
        upper_scale = nearest_int(load(subs.scales, 16 * (j + 4)))
        upper_minimum = nearest_int(load(subs.mins, 16 * (j + 4)))
        low_byte = (scale | ((upper_scale >> 4) << 6)) & 255
        middle_byte = (minimum | ((upper_minimum >> 4) << 6)) & 255
        high_byte = (upper_scale & 15) | ((upper_minimum & 15) << 4)
        low = low | (low_byte << (8 * j))
        middle = middle | (middle_byte << (8 * j))
        high = high | (high_byte << (8 * j))
        store(subs.steps, 16 * j, d * to_float(low_byte & 63))
        store(subs.offsets, 16 * j, dmin * to_float(middle_byte & 63))
        store(subs.steps, 16 * (j + 4), d * to_float((high_byte & 15) | ((low_byte >> 6) << 4)))
        store(subs.offsets, 16 * (j + 4), dmin * to_float((high_byte >> 4) | ((middle_byte >> 6) << 4)))
    store_i32(subs.header, 0, d_bits | (dmin_bits << 16))
    store_i32(subs.header, 16, low)
    store_i32(subs.header, 32, middle)
    store_i32(subs.header, 48, high)


@kernel
def write_header(subs: Any, k: int, out: Any, start: int) -> None:
    """The first 16 bytes of super-block k of the batch."""
    for word in range(4):
        bits = subs.header[16 * word + k]
        for byte in range(4):
            out[start + 4 * word + byte] = np.uint8((bits >> (8 * byte)) & 255)


@kernel
def codes16(batch: Any, i: int, subs: Any, at: int, n_max: int) -> Any:
    """The codes of 16 weights from batch[i], of the sub-block with entry `at` in subs. Where the step is 0, ggml keeps the codes of the search."""
    v = load(batch, i)
    step = subs.steps[at]
    if step != f32(0):
        scaled = (v + subs.offsets[at]) / step
    else:
        scaled = subs.inverses[at] * (v - subs.bases[at])
    return clamp(nearest_int(scaled), 0, n_max)


@kernel
def write_blocks(batch: Any, count: int, subs: Any, out: Any, first: int) -> None:
    for k in range(count):
        start = (first + k) * TYPE_SIZE
        write_header(subs, k, out, start)
        for i in range(0, SIZE // 2, 16):
            j = i // 32 * 2
            weight = k * SIZE + j * SUB_BLOCK + i % 32
            low = codes16(batch, weight, subs, 16 * j + k, 15)
            high = codes16(batch, weight + SUB_BLOCK, subs, 16 * (j + 1) + k, 15)
            store_u8(out, start + HEADER + i, low | (high << 4))


@kernel
def quantize_blocks(x: Any, out: Any) -> None:
    batch = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks()
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        fit_batch(batch, subs, 15, f32(-1), f32(0.1), 20)
        write_blocks(batch, count, subs, out, first)


@kernel
def quantize_blocks_weighted(x: Any, importance: Any, out: Any) -> None:
    batch = np.empty(BATCH * SIZE, f32)
    weights = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks()
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        take_importance(importance, first, weights)
        fit_batch_weighted(batch, weights, subs, 15, 255)
        write_blocks(batch, count, subs, out, first)


@kernel
def sub_scale(blocks: Any, start: int, j: int) -> Any:
    """The 6-bit scale and min of sub-block j; its 12 packed bytes begin at byte `start`."""
    if j < 4:
        return i32(blocks[start + j]) & 63, i32(blocks[start + 4 + j]) & 63
    high = i32(blocks[start + 4 + j])
    return (high & 15) | ((i32(blocks[start + j - 4]) >> 6) << 4), (high >> 4) | ((i32(blocks[start + j]) >> 6) << 4)


@kernel
def dequantize_blocks(blocks: Any, out: Any) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        dmin = load_half(blocks, start + 2)
        for k in range(4):
            scale, minimum = sub_scale(blocks, start + 4, 2 * k)
            low_step = d * f32(scale)
            low_offset = dmin * f32(minimum)
            scale, minimum = sub_scale(blocks, start + 4, 2 * k + 1)
            high_step = d * f32(scale)
            high_offset = dmin * f32(minimum)
            for i in range(0, 32, 16):
                pairs = load_u8(blocks, start + HEADER + 32 * k + i)
                weight = block * SIZE + 64 * k + i
                store(out, weight, low_step * to_float(pairs & 15) - low_offset)
                store(out, weight + 32, high_step * to_float(pairs >> 4) - high_offset)
