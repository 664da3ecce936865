"""Q5_K on lanes: Q4_K's fit, and a fifth bit for each code."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import load_half
from gguflow.kernels.lanes import load_u8, splat, store_onward, store_u8, to_float
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.q4_k import (
    N_SUB_BLOCKS,
    SUB_BLOCK,
    fit_header,
    fit_header_weighted,
    sub_scale,
    write_header,
)
from gguflow.kernels.sub_block_fits import SubBlocks, codes16, new_sub_blocks
from gguflow.kernels.super_blocks import BATCH, SIZE, take_batch, take_importance
from gguflow.kernels.types import F32s, I32s, U8s

f32 = np.float32
i32 = np.int32

TYPE_SIZE = 176
QH, QS = 16, 48  # byte offsets in a block


@helper
def write_blocks(batch: F32s, count: int, subs: SubBlocks, header: I32s, out: U8s, first: int) -> None:
    for k in range(count):
        start = (first + k) * TYPE_SIZE
        write_header(header, k, out, start)
        for half in range(0, SUB_BLOCK, 16):
            fifth = splat(0)
            for j in range(0, 8, 2):
                weight = k * SIZE + j * SUB_BLOCK + half
                low = codes16(batch, weight, subs, 16 * j + k, 31)
                high = codes16(batch, weight + SUB_BLOCK, subs, 16 * (j + 1) + k, 31)
                store_u8(out, start + QS + 16 * j + half, (low & 15) | ((high & 15) << 4))
                fifth = fifth | ((low >> 4) << j) | ((high >> 4) << (j + 1))
            store_u8(out, start + QH + half, fifth)


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    batch = np.empty(BATCH * SIZE, f32)
    subs = new_sub_blocks(N_SUB_BLOCKS)
    header = np.empty(4 * BATCH, i32)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, batch)
        if count == 0:
            return first * SIZE
        fit_header(batch, subs, header, 31, f32(-0.5), f32(0.1), 15)
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
        fit_header_weighted(batch, weights, subs, header, 31, 63)
        write_blocks(batch, count, subs, header, out, first)
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        dmin = load_half(blocks, start + 2)
        for half in range(0, SUB_BLOCK, 16):
            fifth = load_u8(blocks, start + QH + half)
            for j in range(0, 8, 2):
                pairs = load_u8(blocks, start + QS + 16 * j + half)
                weight = block * SIZE + j * SUB_BLOCK + half
                scale, minimum = sub_scale(blocks, start + 4, j)
                q = (pairs & 15) | (((fifth >> j) & 1) << 4)
                store_onward(out, weight, d * f32(scale) * to_float(q) - dmin * f32(minimum))
                scale, minimum = sub_scale(blocks, start + 4, j + 1)
                q = (pairs >> 4) | (((fifth >> (j + 1)) & 1) << 4)
                store_onward(out, weight + SUB_BLOCK, d * f32(scale) * to_float(q) - dmin * f32(minimum))
