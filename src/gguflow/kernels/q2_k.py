"""Q2_K on lanes."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import float_to_half, half_to_float, load_half, nearest_int
from gguflow.kernels.lanes import load, load_u8, splat, store, store_i32, store_onward, store_u8, to_float
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
from gguflow.kernels.types import F32s, F32x16, I32s, U8s

f32 = np.float32
i32 = np.int32

TYPE_SIZE = 84
SUB_BLOCK = 16
N_SUB_BLOCKS = 16
QS, D, DMIN = 16, 80, 82  # byte offsets in a block


@helper
def pack_scales(subs: SubBlocks, packed: I32s, d: F32x16, dmin: F32x16) -> None:
    """From d, dmin and the codes in subs.scales and subs.mins: the bytes, and the steps and offsets that a
    reader will compute.

    packed: int32[17 * 16]: vector j < 16 is the scale byte of sub-block j, vector 16 is d and dmin as one
    word.
    """
    d_bits = float_to_half(d)
    dmin_bits = float_to_half(dmin)
    store_i32(packed, 16 * N_SUB_BLOCKS, d_bits | (dmin_bits << 16))
    d = half_to_float(d_bits)
    dmin = half_to_float(dmin_bits)
    for j in range(N_SUB_BLOCKS):
        byte = (nearest_int(load(subs.scales, 16 * j)) | (nearest_int(load(subs.mins, 16 * j)) << 4)) & 255
        store_i32(packed, 16 * j, byte)
        store(subs.steps, 16 * j, d * to_float(byte & 15))
        store(subs.offsets, 16 * j, dmin * to_float(byte >> 4))


@helper
def write_blocks(batch: F32s, count: int, subs: SubBlocks, packed: I32s, out: U8s, first: int) -> None:
    for k in range(count):
        start = (first + k) * TYPE_SIZE
        for j in range(N_SUB_BLOCKS):
            out[start + j] = np.uint8(packed[16 * j + k])
        for byte in range(4):
            out[start + D + byte] = np.uint8((packed[16 * N_SUB_BLOCKS + k] >> (8 * byte)) & 255)
        for half in range(2):
            for i in range(2):
                pairs = splat(0)
                for t in range(4):
                    j = 8 * half + 2 * t + i
                    pairs = pairs | (codes16(batch, k * SIZE + 16 * j, subs, 16 * j + k, 3) << (2 * t))
                store_u8(out, start + QS + 32 * half + 16 * i, pairs)


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks(N_SUB_BLOCKS)
    packed = np.empty((N_SUB_BLOCKS + 1) * BATCH, i32)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        fit_batch(batch, subs, SUB_BLOCK, 3, f32(-0.5), f32(0.1), 15, True)
        d = to_codes(subs.scales, 15)
        dmin = to_codes(subs.mins, 15)
        pack_scales(subs, packed, d, dmin)
        write_blocks(batch, count, subs, packed, out, first)
    return x.size


@kernel
def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    weights = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks(N_SUB_BLOCKS)
    packed = np.empty((N_SUB_BLOCKS + 1) * BATCH, i32)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        take_importance(importance, first, weights)
        d, dmin = fit_batch_weighted(batch, weights, subs, SUB_BLOCK, 3, f32(1), 15)
        pack_scales(subs, packed, d, dmin)
        write_blocks(batch, count, subs, packed, out, first)
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start + D)
        dmin = load_half(blocks, start + DMIN)
        for half in range(2):
            for i in range(2):
                pairs = load_u8(blocks, start + QS + 32 * half + 16 * i)
                for t in range(4):
                    j = 8 * half + 2 * t + i
                    scale = i32(blocks[start + j])
                    step = d * f32(scale & 15)
                    offset = dmin * f32(scale >> 4)
                    store_onward(out, block * SIZE + 16 * j, step * to_float((pairs >> (2 * t)) & 3) - offset)
