"""Q8_0 on lanes, 16 blocks at a time: a block is two vectors, whose peak is a reduction in any order; the 16
scales are one vector.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import float_to_half, load_half, round_half_away, store_u16_scalar
from gguflow.kernels.lanes import (
    bits_float,
    float_bits,
    largest,
    load,
    load_i8,
    load_i32,
    mask_bits,
    prefetch,
    splat,
    store,
    store_i32,
    store_onward,
    store_u8,
    to_float,
    where,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.scale_words import done_or_look
from gguflow.kernels.types import F32s, U8s

f32 = np.float32

BLOCK_SIZE = 32
TYPE_SIZE = 34
BATCH = 16
INFINITE = 0x7F800000  # the bits of infinity
AHEAD = 2048  # weights, 8 KiB: what is fetched into the cache while a batch is computed

WATCHES_SCALES = True


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    n_blocks = x.size // BLOCK_SIZE
    # the bits of magnitudes, whose order as integers is that of the values; Inf and NaN are above them
    peaks = np.zeros(BATCH, np.int32)
    inverses = np.empty(BATCH, np.float32)
    halves = np.empty(BATCH, np.int32)
    largest_scale, smallest_scale = splat(0), splat(0x7FFF)
    for first in range(0, n_blocks, BATCH):
        count = min(BATCH, n_blocks - first)
        for k in range(count):
            low = float_bits(load(x, (first + k) * BLOCK_SIZE)) & 0x7FFFFFFF
            high = float_bits(load(x, (first + k) * BLOCK_SIZE + 16)) & 0x7FFFFFFF
            peaks[k] = largest(where(low > high, low, high))
        peak = load_i32(peaks, 0)
        if mask_bits(peak >= INFINITE) != 0:
            return first * BLOCK_SIZE
        d = bits_float(peak) / f32(127)
        inverse = f32(1) / d
        # where d is zero or denormal; ggml's products overflow to infinity and NaN, which x86 converts to the
        # code 0
        store(inverses, 0, where(inverse < f32(np.inf), inverse, f32(0)))
        half = float_to_half(d)
        store_i32(halves, 0, half)
        largest_scale = where(half > largest_scale, half, largest_scale)
        smallest_scale = where(half < smallest_scale, half, smallest_scale)
        for k in range(count):
            i = (first + k) * BLOCK_SIZE
            o = (first + k) * TYPE_SIZE
            prefetch(x, i + AHEAD)
            prefetch(x, i + AHEAD + 16)
            store_u16_scalar(out, o, halves[k])
            store_u8(out, o + 2, round_half_away(load(x, i) * inverses[k]))
            store_u8(out, o + 18, round_half_away(load(x, i + 16) * inverses[k]))
    return done_or_look(x.size, largest_scale, smallest_scale)


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * TYPE_SIZE)
        store_onward(out, block * BLOCK_SIZE, to_float(load_i8(blocks, block * TYPE_SIZE + 2)) * d)
        store_onward(out, block * BLOCK_SIZE + 16, to_float(load_i8(blocks, block * TYPE_SIZE + 18)) * d)
