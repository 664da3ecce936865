"""MXFP4 on lanes: the exponent of a block from its peak, the codes by comparison with the midpoints."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.finite import is_finite
from gguflow.kernels.fp4 import nearest_codes_of_scaled, values
from gguflow.kernels.lanes import bits_float, float_bits, load, store_onward
from gguflow.kernels.nibbles import load_nibbles, store_nibbles
from gguflow.kernels.policy import kernel
from gguflow.kernels.ternary import peak
from gguflow.kernels.types import F32s, Int, U8s

f32 = np.float32
i32 = np.int32

BLOCK_SIZE = 32
TYPE_SIZE = 17

LN_2 = f32(0.6931471805599453)
WIDEST_GAP = 88  # units of 2**-24, below a power of two, within which log2f can round up to the integer


@kernel
def floor_log2(v: f32) -> Int:
    """floor(log2f(v)) for v > 0, where log2f is correctly rounded: just below 2**K it may round up to K.

    v = 2**K * (1 - gap * 2**-24) has log2 v = K - gap * 2**-24 / ln 2. Binary32 below K is spaced 2**-23
    times a power of two: the largest that is at most K - 1 for positive K, at most -K else. Within half of a
    spacing, log2f gives K.
    """
    bits = float_bits(v)
    exponent = i32(bits >> i32(23)) - i32(127)
    if bits < i32(0x800000):  # denormal
        bits = float_bits(f32(v * f32(16777216)))
        exponent = i32(bits >> i32(23)) - i32(127 + 24)
    gap = i32(0x800000) - (bits & i32(0x7FFFFF))
    if gap <= WIDEST_GAP:
        distance = exponent if exponent >= 0 else -exponent - 1
        spacing = 1
        while spacing * 2 <= distance:
            spacing *= 2
        if f32(gap) < f32(spacing) * LN_2:
            exponent += i32(1)
    return exponent


@kernel
def half_step(e: Int) -> f32:
    """2**(e - 128) for the stored exponent 0 to 255: half of what E8M0 says, because the E2M1 values are
    doubled.
    """
    return bits_float(i32(0x200000) << i32(e)) if e < 2 else bits_float(i32(e - 1) << i32(23))


@kernel
def inverse_step(e: Int) -> f32:
    """2**(127 - e), half of 1 / half_step(e), since binary32 does not reach 2**128. Scaling by it is exact,
    or underflows to a code of zero.
    """
    return bits_float(i32(254 - e) << i32(23)) if e < 254 else bits_float(i32(0x400000) >> i32(e - 254))


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    for block in range(x.size // BLOCK_SIZE):
        if not is_finite(x, block * BLOCK_SIZE, BLOCK_SIZE):
            return block * BLOCK_SIZE
        top = peak(x, block * BLOCK_SIZE, BLOCK_SIZE)
        # below 2**-125 it wraps, as ggml's conversion to a byte does
        e = (floor_log2(top) + i32(125)) & i32(255) if top > f32(0) else i32(0)
        out[block * TYPE_SIZE] = e
        inverse = inverse_step(e)
        low = nearest_codes_of_scaled(load(x, block * BLOCK_SIZE) * inverse * f32(2))
        high = nearest_codes_of_scaled(load(x, block * BLOCK_SIZE + 16) * inverse * f32(2))
        store_nibbles(out, block * TYPE_SIZE + 1, low, high)
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // BLOCK_SIZE):
        d = half_step(i32(blocks[block * TYPE_SIZE]))
        low, high = load_nibbles(blocks, block * TYPE_SIZE + 1)
        store_onward(out, block * BLOCK_SIZE, values(low) * d)
        store_onward(out, block * BLOCK_SIZE + 16, values(high) * d)
