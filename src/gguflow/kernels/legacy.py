"""Q4_0, Q4_1, Q5_0, Q5_1 on lanes: a block is two vectors, its extremes are reductions in any order, and the
scales of 16 blocks are one vector.

`bits` is 4 or 5 throughout: the 5-bit formats have four bytes of fifth bits between the scales and the
nibbles.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import float_to_half, load_half, store_u16_scalar
from gguflow.kernels.finite import is_finite
from gguflow.kernels.lanes import (
    load,
    prefetch,
    splat,
    store,
    store_i32,
    store_onward,
    to_float,
    to_int,
    vabs,
    where,
)
from gguflow.kernels.nibbles import bottom_and_top, load_codes, signed_peak, store_codes
from gguflow.kernels.policy import kernel
from gguflow.kernels.scale_words import done_or_look
from gguflow.kernels.types import F32s, U8s

f32 = np.float32

BLOCK_SIZE = 32
BATCH = 16
AHEAD = 2048  # weights, 8 KiB: what is fetched into the cache while a batch is computed


@kernel
def quantize_symmetric(x: F32s, out: U8s, bits: int) -> int:
    """Q4_0 and Q5_0: the weight of the largest magnitude becomes code 0."""
    half_range = f32(1 << (bits - 1))
    top_code = (1 << bits) - 1
    type_size = 2 + 4 * bits
    n_blocks = x.size // BLOCK_SIZE
    peaks = np.zeros(BATCH, np.float32)
    inverses = np.empty(BATCH, np.float32)
    rounders = np.empty(BATCH, np.float32)
    scales = np.empty(BATCH, np.int32)
    largest_scale, smallest_scale = splat(0), splat(0x7FFF)
    for first in range(0, n_blocks, BATCH):
        count = min(BATCH, n_blocks - first)
        if not is_finite(x, first * BLOCK_SIZE, count * BLOCK_SIZE):
            return first * BLOCK_SIZE
        for k in range(count):
            i = (first + k) * BLOCK_SIZE
            prefetch(x, i + AHEAD)
            prefetch(x, i + AHEAD + 16)
            peaks[k] = signed_peak(load(x, i), load(x, i + 16))
        d = load(peaks, 0) / -half_range
        inverse = f32(1) / d
        usable = vabs(inverse) < f32(np.inf)
        # where d is denormal, ggml's products overflow to infinity and NaN, which x86 converts to the code 0;
        # where it is zero, 1/d counts as zero
        store(rounders, 0, where(usable | (d == f32(0)), splat(half_range + f32(0.5)), f32(0)))
        store(inverses, 0, where(usable, inverse, f32(0)))
        scale = float_to_half(d)
        store_i32(scales, 0, scale)
        scale = scale & 0x7FFF
        largest_scale = where(scale > largest_scale, scale, largest_scale)
        smallest_scale = where(scale < smallest_scale, scale, smallest_scale)
        for k in range(count):
            i = (first + k) * BLOCK_SIZE
            o = (first + k) * type_size
            low = to_int(load(x, i) * inverses[k] + rounders[k])
            high = to_int(load(x, i + 16) * inverses[k] + rounders[k])
            store_u16_scalar(out, o, scales[k])
            low = where(low < top_code, low, top_code)
            high = where(high < top_code, high, top_code)
            store_codes(out, o + 2, low, high, bits)
    return done_or_look(x.size, largest_scale, smallest_scale)


@kernel
def quantize_affine(x: F32s, out: U8s, bits: int) -> int:
    """Q4_1 and Q5_1: the smallest weight becomes code 0, the largest the largest code."""
    top_code = (1 << bits) - 1
    type_size = 4 + 4 * bits
    n_blocks = x.size // BLOCK_SIZE
    bottoms = np.zeros(BATCH, np.float32)
    tops = np.zeros(BATCH, np.float32)
    inverses = np.empty(BATCH, np.float32)
    scales = np.empty(BATCH, np.int32)
    mins = np.empty(BATCH, np.int32)
    largest_scale, smallest_scale = splat(0), splat(0x7FFF)
    for first in range(0, n_blocks, BATCH):
        count = min(BATCH, n_blocks - first)
        if not is_finite(x, first * BLOCK_SIZE, count * BLOCK_SIZE):
            return first * BLOCK_SIZE
        for k in range(count):
            i = (first + k) * BLOCK_SIZE
            prefetch(x, i + AHEAD)
            prefetch(x, i + AHEAD + 16)
            bottoms[k], tops[k] = bottom_and_top(load(x, i), load(x, i + 16))
        d = vabs(load(tops, 0) - load(bottoms, 0)) / f32(top_code)
        inverse = f32(1) / d
        store(inverses, 0, where(inverse < f32(np.inf), inverse, f32(0)))
        scale, lowest = float_to_half(d), float_to_half(load(bottoms, 0))
        store_i32(scales, 0, scale)
        store_i32(mins, 0, lowest)
        lowest = lowest & 0x7FFF
        largest_scale = where(scale > largest_scale, scale, largest_scale)
        largest_scale = where(lowest > largest_scale, lowest, largest_scale)
        smallest_scale = where((scale | lowest) < smallest_scale, scale | lowest, smallest_scale)
        for k in range(count):
            i = (first + k) * BLOCK_SIZE
            o = (first + k) * type_size
            store_u16_scalar(out, o, scales[k])
            store_u16_scalar(out, o + 2, mins[k])
            # d is zero, denormal or infinite: every product of ggml's converts to the code 0
            if inverses[k] == f32(0):
                for j in range(o + 4, o + type_size):
                    out[j] = 0
                continue
            low = to_int((load(x, i) - bottoms[k]) * inverses[k] + f32(0.5))
            high = to_int((load(x, i + 16) - bottoms[k]) * inverses[k] + f32(0.5))
            low = where(low < top_code, low, top_code)
            high = where(high < top_code, high, top_code)
            store_codes(out, o + 4, low, high, bits)
    return done_or_look(x.size, largest_scale, smallest_scale)


@kernel
def dequantize_symmetric(blocks: U8s, out: F32s, bits: int) -> None:
    """d * (q - 2**(bits - 1))."""
    type_size = 2 + 4 * bits
    zero = -(1 << (bits - 1))
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * type_size)
        low, high = load_codes(blocks, block * type_size + 2, bits)
        store_onward(out, block * BLOCK_SIZE, to_float(low + zero) * d)
        store_onward(out, block * BLOCK_SIZE + 16, to_float(high + zero) * d)


@kernel
def dequantize_affine(blocks: U8s, out: F32s, bits: int) -> None:
    """d * q + m."""
    type_size = 4 + 4 * bits
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * type_size)
        m = load_half(blocks, block * type_size + 2)
        low, high = load_codes(blocks, block * type_size + 4, bits)
        store_onward(out, block * BLOCK_SIZE, to_float(low) * d + m)
        store_onward(out, block * BLOCK_SIZE + 16, to_float(high) * d + m)
