"""Q4_K on lanes. The fit of scales and mins, and their 6-bit packing, serve Q5_K as well."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import float_to_half, half_to_float, load_half, nearest_int
from gguflow.kernels.lanes import (
    load,
    load_u8,
    splat,
    store,
    store_i32,
    store_onward,
    store_u8,
    to_float,
    where,
)
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.sub_block_fits import (
    SubBlocks,
    codes16,
    fit_batch,
    fit_batch_weighted,
    new_sub_blocks,
    to_codes,
)
from gguflow.kernels.super_blocks import BATCH, SIZE, take_batch, take_importance
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, Int, U8s

f32 = np.float32
i32 = np.int32

TYPE_SIZE = 144
SUB_BLOCK = 32
N_SUB_BLOCKS = 8
HEADER = 16  # bytes before the codes: d, dmin, scales


@helper
def fit_header(
    batch: F32s, subs: SubBlocks, header: I32s, n_max: int, first: f32, step: f32, last: int
) -> None:
    """Fit a batch without importance; first, step, last: the ladder. header: see pack_header."""
    fit_batch(batch, subs, SUB_BLOCK, n_max, first, step, last, False)
    d = to_codes(subs.scales, 63)
    dmin = to_codes(subs.mins, 63)
    pack_header(subs, header, d, dmin, 63)


@helper
def fit_header_weighted(
    batch: F32s, importance: F32s, subs: SubBlocks, header: I32s, n_max: int, widest: int
) -> None:
    """Fit a batch with importance. header, widest: see pack_header."""
    d, dmin = fit_batch_weighted(batch, importance, subs, SUB_BLOCK, n_max, f32(2), 63)
    pack_header(subs, header, d, dmin, widest)


@helper
def code_of(values: F32s, j: int, widest: int) -> I32x16:
    """The codes of sub-block j as integers, at most `widest`."""
    q = nearest_int(load(values, 16 * j))
    return where(q < widest, q, widest)


@helper
def pack_header(subs: SubBlocks, header: I32s, d: F32x16, dmin: F32x16, widest: int) -> None:
    """From d, dmin and the codes in subs.scales and subs.mins: the header, and the steps and offsets that a
    reader will compute.

    header: int32[4 * 16], the first 16 bytes of each block as four little-endian words.
    widest: where codes are clamped; see blocks.q4_k.fit_block.
    """
    d_bits = float_to_half(d)
    dmin_bits = float_to_half(dmin)
    d = half_to_float(d_bits)
    dmin = half_to_float(dmin_bits)
    low = splat(0)
    middle = splat(0)
    high = splat(0)
    for j in range(4):
        scale = code_of(subs.scales, j, widest)
        minimum = code_of(subs.mins, j, widest)
        upper_scale = code_of(subs.scales, j + 4, widest)
        upper_minimum = code_of(subs.mins, j + 4, widest)
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
    store_i32(header, 0, d_bits | (dmin_bits << 16))
    store_i32(header, 16, low)
    store_i32(header, 32, middle)
    store_i32(header, 48, high)


@helper
def write_header(header: I32s, k: int, out: U8s, start: int) -> None:
    """The first 16 bytes of super-block k of the batch."""
    for word in range(4):
        bits = header[16 * word + k]
        for byte in range(4):
            out[start + 4 * word + byte] = np.uint8((bits >> (8 * byte)) & 255)


@helper
def write_blocks(batch: F32s, count: int, subs: SubBlocks, header: I32s, out: U8s, first: int) -> None:
    for k in range(count):
        start = (first + k) * TYPE_SIZE
        write_header(header, k, out, start)
        for i in range(0, SIZE // 2, 16):
            j = i // 32 * 2
            weight = k * SIZE + j * SUB_BLOCK + i % 32
            low = codes16(batch, weight, subs, 16 * j + k, 15)
            high = codes16(batch, weight + SUB_BLOCK, subs, 16 * (j + 1) + k, 15)
            store_u8(out, start + HEADER + i, low | (high << 4))


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks(N_SUB_BLOCKS)
    header = np.empty(4 * BATCH, i32)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        fit_header(batch, subs, header, 15, f32(-1), f32(0.1), 20)
        write_blocks(batch, count, subs, header, out, first)
    return x.size


@kernel
def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    weights = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks(N_SUB_BLOCKS)
    header = np.empty(4 * BATCH, i32)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        take_importance(importance, first, weights)
        fit_header_weighted(batch, weights, subs, header, 15, 255)
        write_blocks(batch, count, subs, header, out, first)
    return x.size


@helper
def sub_scale(blocks: U8s, start: int, j: int) -> tuple[Int, Int]:
    """The 6-bit scale and min of sub-block j; its 12 packed bytes begin at byte `start`."""
    if j < 4:
        return i32(blocks[start + j]) & 63, i32(blocks[start + 4 + j]) & 63
    low = i32(blocks[start + 4 + j])
    scale = (low & 15) | ((i32(blocks[start + j - 4]) >> 6) << 4)
    minimum = (low >> 4) | ((i32(blocks[start + j]) >> 6) << 4)
    return scale, minimum


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
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
                store_onward(out, weight, low_step * to_float(pairs & 15) - low_offset)
                store_onward(out, weight + 32, high_step * to_float(pairs >> 4) - high_offset)
