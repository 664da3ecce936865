"""Floats as byte planes and back: each word rotated left by one bit, then its bytes apart, the highest first.

The rotation takes the sign to the other end, so that the first plane of a bfloat16 or binary32 is its exponent and nothing else; of a binary16 the
exponent and three bits of the fraction. Exponents of weights are few and far from equally frequent; the other planes are noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.policy import kernel
from gguflow.lanes import load_u8, load_u16, load_u32, store_u8, store_u16, store_u32

u8 = np.uint8
u64 = np.uint64


@kernel
def split(words: Any, size: int, planes: Any) -> None:
    """words: uint8[n * size], little-endian words of 2, 4 or 8 bytes. planes: uint8[size, n], written."""
    n = words.size // size
    flat = planes.reshape(size * n)
    i = 0
    if size == 2:
        while i + 16 <= n:
            w = load_u16(words, 2 * i)
            store_u8(flat, i, w >> 7)
            store_u8(flat, n + i, (w << 1) | (w >> 15))
            i += 16
    elif size == 4:
        while i + 16 <= n:
            w = load_u32(words, 4 * i)
            w = (w << 1) | (w >> 31)
            for k in range(4):
                store_u8(flat, k * n + i, w >> (24 - 8 * k))
            i += 16
    bits = u64(8 * size)
    while i < n:
        word = u64(0)
        for k in range(size):
            word |= u64(words[size * i + k]) << u64(8 * k)
        word = (word << u64(1)) | (word >> (bits - u64(1)))
        for k in range(size):
            flat[k * n + i] = u8((word >> (bits - u64(8 * k + 8))) & u64(255))
        i += 1


@kernel
def merge(planes: Any, words: Any) -> None:
    """The inverse of `split`. planes: uint8[size, n]. words: uint8[n * size], written."""
    size, n = planes.shape
    flat = planes.reshape(size * n)
    i = 0
    if size == 2:
        while i + 16 <= n:
            low = load_u8(flat, n + i)
            store_u16(words, 2 * i, (load_u8(flat, i) << 7) | (low >> 1) | (low << 15))
            i += 16
    elif size == 4:
        while i + 16 <= n:
            w = load_u8(flat, i)
            for k in range(1, 4):
                w = (w << 8) | load_u8(flat, k * n + i)
            store_u32(words, 4 * i, (w >> 1) | (w << 31))
            i += 16
    bits = u64(8 * size)
    while i < n:
        word = u64(0)
        for k in range(size):
            word |= u64(flat[k * n + i]) << (bits - u64(8 * k + 8))
        word = (word >> u64(1)) | ((word & u64(1)) << (bits - u64(1)))
        for k in range(size):
            words[size * i + k] = u8((word >> u64(8 * k)) & u64(255))
        i += 1
