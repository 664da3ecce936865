"""Q2_0 on lanes: the two bits of a code are two masks, interleaved as integers, since neighbours share a
byte.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.lanes import lane_numbers, load, mask_bits, splat, store_onward, to_float, vabs
from gguflow.kernels.policy import kernel
from gguflow.kernels.ternary import inverse_scale, peak
from gguflow.kernels.types import F32s, Int, U8s

f32 = np.float32
i32 = np.int32
u32 = np.uint32
u64 = np.uint64

BLOCK_SIZE = 64
TYPE_SIZE = 18


@kernel
def interleave(even: Int, odd: Int) -> Int:
    """Bit i of 16-bit `even` becomes bit 2 i, bit i of `odd` bit 2 i + 1."""
    v = u64(even) | (u64(odd) << u64(32))
    v = (v | (v << u64(8))) & u64(0x00FF00FF00FF00FF)
    v = (v | (v << u64(4))) & u64(0x0F0F0F0F0F0F0F0F)
    v = (v | (v << u64(2))) & u64(0x3333333333333333)
    v = (v | (v << u64(1))) & u64(0x5555555555555555)
    return u32(v & u64(0xFFFFFFFF)) | u32((v >> u64(31)) & u64(0xFFFFFFFF))


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    for block in range(x.size // BLOCK_SIZE):
        i = block * BLOCK_SIZE
        if not is_finite(x, i, BLOCK_SIZE):
            return i
        o = block * TYPE_SIZE
        d = peak(x, i, BLOCK_SIZE)
        store_half(out, o, d)
        inverse = inverse_scale(d)
        # d is denormal: ggml's products overflow to infinity and NaN, which x86 converts to a number that is
        # clamped to the code 0
        kept = u32(0) if inverse == f32(0) and d > f32(0) else u32(0xFFFFFFFF)
        for j in range(4):
            v = load(x, i + 16 * j) * inverse
            zero = mask_bits(vabs(v) < f32(0.5))
            positive = mask_bits(v >= f32(0.5))
            codes = interleave(zero, positive) & kept  # -1, 0, 1 as 0, 1, 2
            for k in range(4):
                out[o + 2 + 4 * j + k] = np.uint8((codes >> u32(8 * k)) & u32(255))
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    shift = lane_numbers() << 1
    for block in range(out.size // BLOCK_SIZE):
        o = block * TYPE_SIZE
        d = load_half(blocks, o)
        for j in range(4):
            codes = i32(0)
            for k in range(4):
                codes |= i32(blocks[o + 2 + 4 * j + k]) << i32(8 * k)
            store_onward(out, block * BLOCK_SIZE + 16 * j, to_float(((splat(codes) >> shift) & 3) + -1) * d)
