"""IQ4_XS on lanes: 16 super-blocks at a time, sub-block b of all of them together."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import load_half, nearest_int, store_half
from gguflow.kernels.fits import clamp
from gguflow.kernels.iq4 import VALUES, error_weights, fit_scale, inverse_or_zero, store_codes
from gguflow.kernels.lanes import load, lookup16, splat, store, store_i32, store_onward, to_float, vabs, where
from gguflow.kernels.nibbles import load_nibbles
from gguflow.kernels.policy import kernel
from gguflow.kernels.super_blocks import BATCH, SIZE, sum_of_squares, take_batch, take_importance, to_lanes
from gguflow.kernels.types import F32s, I32s, U8s

f32 = np.float32
i32 = np.int32

TYPE_SIZE = 136
SUB_BLOCK = 32
N_SUB_BLOCKS = 8


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    return _encode(x, x, False, out)


@kernel
def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return _encode(x, importance, True, out)


@kernel
def _encode(x: F32s, importance: F32s, weighted: bool, out: U8s) -> int:
    natural = np.empty(BATCH * SIZE, f32)
    natural_importance = np.empty(BATCH * SIZE, f32)
    lanes = np.empty(BATCH * SUB_BLOCK, f32)
    w = np.empty(BATCH * SUB_BLOCK, f32)
    scales = np.empty(BATCH * N_SUB_BLOCKS, f32)
    packed = np.empty(BATCH * N_SUB_BLOCKS, i32)
    d_of = np.empty(BATCH, f32)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_batch(x, first, natural)
        if count == 0:
            return first * SIZE
        total_square = splat(f32(0))
        if weighted:
            take_importance(importance, first, natural_importance)
            total_square = sum_of_squares(natural, lanes)
        peak = splat(f32(0))
        for b in range(N_SUB_BLOCKS):
            to_lanes(natural, SUB_BLOCK * b, SUB_BLOCK, lanes)
            if weighted:
                to_lanes(natural_importance, SUB_BLOCK * b, SUB_BLOCK, w)
            for i in range(SUB_BLOCK):
                v = load(lanes, 16 * i)
                u = v * v
                if weighted:
                    u = error_weights(v, load(w, 16 * i), total_square, f32(2 / SIZE))
                store(w, 16 * i, u)
            scale = fit_scale(lanes, w)
            peak = where(vabs(scale) > vabs(peak), scale, peak)
            store(scales, 16 * b, scale)
        d = -peak / f32(32)
        store(d_of, 0, d)
        for b in range(N_SUB_BLOCKS):
            sub_scale = clamp(nearest_int(inverse_or_zero(d) * load(scales, 16 * b)), -32, 31)
            store_i32(packed, 16 * b, sub_scale + 32)
            to_lanes(natural, SUB_BLOCK * b, SUB_BLOCK, lanes)
            inverse = inverse_or_zero(d * to_float(sub_scale))
            store_codes(lanes, inverse, w, out, first * TYPE_SIZE + 8 + 16 * b, TYPE_SIZE, count)
        for k in range(count):
            store_half(out, (first + k) * TYPE_SIZE, d_of[k])
        _store_sub_scales(packed, out, first, count)
    return x.size


@kernel
def _store_sub_scales(packed: I32s, out: U8s, first: int, count: int) -> None:
    """packed: int32[8 * 16], sub-scale b (0 to 63) of all 16 at 16 * b."""
    for k in range(count):
        start = (first + k) * TYPE_SIZE
        high = 0
        for b in range(N_SUB_BLOCKS):
            high |= (packed[16 * b + k] >> 4) << (2 * b)
        out[start + 2] = np.uint8(high & 255)
        out[start + 3] = np.uint8(high >> 8)
        for b in range(0, N_SUB_BLOCKS, 2):
            low, high = packed[16 * b + k] & 15, packed[16 * (b + 1) + k] & 15
            out[start + 4 + b // 2] = np.uint8(low | (high << 4))


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    values = load(VALUES, 0)
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        high = i32(blocks[start + 2]) | (i32(blocks[start + 3]) << i32(8))
        for b in range(N_SUB_BLOCKS):
            low = i32(blocks[start + 4 + b // 2]) >> i32(4 * (b % 2))
            sub_scale = d * f32(((low & i32(15)) | (((high >> i32(2 * b)) & i32(3)) << i32(4))) - i32(32))
            codes_low, codes_high = load_nibbles(blocks, start + 8 + 16 * b)
            store_onward(out, block * SIZE + SUB_BLOCK * b, sub_scale * lookup16(values, codes_low))
            store_onward(out, block * SIZE + SUB_BLOCK * b + 16, sub_scale * lookup16(values, codes_high))
