"""Q1_0 on lanes: signs as masks; the mean magnitude is a sum in order, so 16 blocks take their sums side by
side.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.lanes import (
    lane_numbers,
    load,
    mask_bits,
    prefetch,
    splat,
    store,
    store_onward,
    transpose16,
    vabs,
    where,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.ternary import AHEAD
from gguflow.kernels.types import F32s, F32x16, Int, U8s

f32 = np.float32
i32 = np.int32

BLOCK_SIZE = 128
TYPE_SIZE = 18
BATCH = 16


@kernel
def sums_of_magnitudes(x: F32s, first: Int, columns: F32s) -> F32x16:
    """Lane k: |w[0]| + |w[1]| + ... of the k-th of 16 blocks from element `first`. columns: scratch,
    float32[256].
    """
    sums = splat(f32(0))
    for start in range(0, BLOCK_SIZE, 16):
        transpose16(x, first + start, BLOCK_SIZE, columns, 0)
        for i in range(16):
            sums = sums + vabs(load(columns, 16 * i))
            prefetch(x, first + AHEAD + (start + i) * 16)
    return sums


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    n_blocks = x.size // BLOCK_SIZE
    columns = np.empty(256, np.float32)
    sums = np.empty(BATCH, np.float32)
    for first in range(0, n_blocks, BATCH):
        count = min(BATCH, n_blocks - first)
        if not is_finite(x, first * BLOCK_SIZE, count * BLOCK_SIZE):
            return first * BLOCK_SIZE
        if count == BATCH:
            store(sums, 0, sums_of_magnitudes(x, first * BLOCK_SIZE, columns))
        else:
            for k in range(count):
                total = f32(0)
                for i in range((first + k) * BLOCK_SIZE, (first + k + 1) * BLOCK_SIZE):
                    total += vabs(x[i])
                sums[k] = total
        for k in range(count):
            i = (first + k) * BLOCK_SIZE
            o = (first + k) * TYPE_SIZE
            store_half(out, o, sums[k] / f32(128))
            for j in range(8):
                bits = mask_bits(load(x, i + 16 * j) >= f32(0))
                out[o + 2 + 2 * j] = bits & 255
                out[o + 3 + 2 * j] = bits >> 8
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    bit = splat(1) << lane_numbers()
    for block in range(out.size // BLOCK_SIZE):
        o = block * TYPE_SIZE
        d = load_half(blocks, o)
        for j in range(8):
            bits = i32(blocks[o + 2 + 2 * j]) | (i32(blocks[o + 3 + 2 * j]) << i32(8))
            weights = where((splat(bits) & bit) != 0, splat(d), splat(-d))
            store_onward(out, block * BLOCK_SIZE + 16 * j, weights)
