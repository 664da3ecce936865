"""Bit-level arithmetic shared by kernels: half precision, bfloat16, ggml's rounding, bytes.

Half precision is done on integers: LLVM's own conversions call a run-time function where the processor has no
F16C, the JIT does not resolve it, and the process dies. Every function here is held equal to NumPy on all
65,536 halves, and on boundary and random floats, by tests.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import bits_float, float_bits, splat, to_int, where
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, F32x16, I32x16, Int, U8s

f32 = np.float32
i32 = np.int32

_ROUNDER = f32(12582912.0)
"""1.5 * 2**23: adding it leaves the nearest integer in the low bits of the fraction."""


@kernel
def nearest_int(v: F32x16) -> I32x16:
    """ggml's nearest_int, on lanes: the nearest integer, ties to even, for |v| < 2**22.

    Beyond that, and for NaN, it gives what ggml gives (the low 23 bits of the sum, less 2**22): encoders
    clamp it afterwards, and adversarial blocks must come out with the same bytes.
    """
    return (float_bits(v + _ROUNDER) & i32(0x7FFFFF)) - i32(0x400000)


@kernel
def nearest_int_scalar(v: f32) -> Int:
    """nearest_int for one float32."""
    return i32((float_bits(f32(v + _ROUNDER)) & i32(0x7FFFFF)) - i32(0x400000))


@kernel
def round_half_away(v: F32x16) -> I32x16:
    """C's roundf on lanes, as integers, for |v| < 2**22: nearest, ties away from zero.

    Toward zero after adding the largest float below a half: the sum rounds up to the next integer from the
    tie on, and never before it.
    """
    return to_int(v + bits_float((float_bits(v) & i32(-0x80000000)) | 0x3EFFFFFF))


@kernel
def half_to_float(h: I32x16) -> F32x16:
    """Lanes of 16-bit half patterns (0 to 65535) to float lanes; exact. A NaN keeps its payload and becomes
    quiet, as in hardware.
    """
    magnitude = (h & 0x7FFF) << 13
    exponent = magnitude & 0x0F800000
    normal = magnitude + ((127 - 15) << 23)
    special = normal + ((128 - 16) << 23)  # Inf, NaN
    special = where((h & 0x3FF) != 0, special | 0x400000, special)
    tiny = float_bits(bits_float(normal + (1 << 23)) - bits_float(i32(113 << 23)))  # zero, subnormal
    bits = where(exponent == 0x0F800000, special, where(exponent == 0, tiny, normal))
    return bits_float(bits | ((h & 0x8000) << 16))


@kernel
def float_to_half(v: F32x16) -> I32x16:
    """Float lanes to half patterns: nearest, ties to even; overflow to infinity; NaN to a quiet NaN with its
    sign.
    """
    bits = float_bits(v)
    sign = (bits >> 16) & 0x8000
    magnitude = bits & 0x7FFFFFFF
    large = where(magnitude > 0x7F800000, splat(0x7E00), splat(0x7C00))
    # the adder rounds at the subnormal step
    shifted = float_bits(bits_float(magnitude) + f32(0.5)) - 0x3F000000
    rounded = (magnitude + 0xFFF + ((magnitude >> 13) & 1) - 0x38000000) >> 13
    half = where(magnitude >= 0x47800000, large, where(magnitude < 0x38800000, shifted, rounded))
    return half | sign


@kernel
def half_to_float_scalar(h: Int) -> f32:
    """One half pattern (any integer type) to float32; exact."""
    h = i32(h)
    sign = (h & i32(0x8000)) << i32(16)
    exponent = (h >> i32(10)) & i32(31)
    fraction = h & i32(0x3FF)
    if exponent == i32(31):
        quiet = i32(0x400000) if fraction != i32(0) else i32(0)
        return bits_float(i32(sign | i32(0x7F800000) | quiet | (fraction << i32(13))))
    if exponent == i32(0):
        value = f32(fraction) * f32(5.9604644775390625e-08)  # fraction * 2**-24, exact
        return bits_float(i32(sign | float_bits(value)))
    return bits_float(i32(sign | ((exponent + i32(112)) << i32(23)) | (fraction << i32(13))))


@kernel
def float_to_half_scalar(value: f32) -> Int:
    """One float32 to a half pattern in an int32; as float_to_half."""
    bits = float_bits(f32(value))
    sign = (bits >> i32(16)) & i32(0x8000)
    magnitude = bits & i32(0x7FFFFFFF)
    if magnitude > i32(0x7F800000):
        return i32(sign | i32(0x7E00))
    if magnitude >= i32(0x47800000):  # 65536 and above
        return i32(sign | i32(0x7C00))
    if magnitude < i32(0x38800000):  # below 2**-14
        return i32(sign | (float_bits(f32(bits_float(magnitude) + f32(0.5))) - i32(0x3F000000)))
    rounded = magnitude + i32(0xFFF) + ((magnitude >> i32(13)) & i32(1))
    return i32(sign | ((rounded - i32(0x38000000)) >> i32(13)))


@kernel
def load_half(blocks: U8s, i: Int) -> f32:
    """The float32 value of the little-endian half at byte i of a flat uint8 array."""
    return half_to_float_scalar(i32(blocks[i]) | (i32(blocks[i + 1]) << i32(8)))


@kernel
def store_half(out: U8s, i: Int, value: f32) -> f32:
    """Write float32 `value` as a little-endian half to byte i of a flat uint8 array; returns what a reader
    will get: the rounded float32.
    """
    half = float_to_half_scalar(value)
    store_u16_scalar(out, i, half)
    return half_to_float_scalar(half)


@kernel
def store_u16_scalar(out: U8s, i: Int, word: Int) -> None:
    """Write the low 16 bits of an int32 to byte i of a flat uint8 array, little-endian."""
    out[i] = np.uint8(word & i32(255))
    out[i + 1] = np.uint8((word >> i32(8)) & i32(255))


@kernel
def floats_before_line(out: F32s) -> Int:
    """How many elements of a float32 array come before its first cache line of 64 bytes: stores of 16 that
    start there straddle no lines.
    """
    return min(out.size, (-out.ctypes.data % 64) // 4)
