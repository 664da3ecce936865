"""Half precision and two roundings, one value at a time, in binary32; the twin of kernels/bits.py."""

from __future__ import annotations

import numpy as np

f32 = np.float32


def half_bits(value: np.float32) -> int:
    """The binary16 pattern nearest to value, ties to even, overflow to infinity, every NaN the quiet one with
    its sign (as ggml writes it).
    """
    if np.isnan(value):
        return 0xFE00 if np.signbit(value) else 0x7E00
    with np.errstate(over="ignore"):
        return int(np.float16(value).view(np.uint16))


def half_value(bits: int) -> np.float32:
    """The value of a binary16 pattern; exact. A NaN keeps its payload and becomes quiet, as in hardware."""
    if bits & 0x7FFF > 0x7C00:
        word = (bits & 0x8000) << 16 | 0x7FC00000 | (bits & 0x3FF) << 13
        value: np.float32 = np.uint32(word).view(np.float32)
        return value
    return f32(np.uint16(bits).view(np.float16))


def round_half_away(value: np.float32) -> int:
    """C's roundf: nearest integer, ties away from zero."""
    whole = int(abs(value))  # toward zero
    rounded = whole + 1 if abs(value) - f32(whole) >= f32(0.5) else whole
    return -rounded if value < 0 else rounded


def nearest_int(value: np.float32) -> int:
    """ggml's nearest_int: nearest integer, ties to even, read out of the fraction of value + 1.5 * 2**23.

    Outside |value| < 2**22, and for NaN, that gives a certain integer too; encoders clamp it, and equal bytes
    need the same one.
    """
    bits = int(f32(value + f32(12582912.0)).view(np.uint32))
    return (bits & 0x7FFFFF) - 0x400000
