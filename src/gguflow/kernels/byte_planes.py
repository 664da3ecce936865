"""Floats as byte planes and back: each word rotated left by one bit, then its bytes apart, the highest first.

The rotation takes the sign to the other end, so that the first plane of a bfloat16 or binary32 is its
exponent and nothing else; of a binary16 the exponent and three bits of the fraction. Exponents of weights are
few and far from equally frequent; the other planes are noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.lanes import (
    bits_float,
    load_u8,
    load_u16,
    load_u32,
    store,
    store_u8,
    store_u16,
    store_u32,
)
from gguflow.kernels.policy import helper, kernel

u8 = np.uint8
u64 = np.uint64
i32 = np.int32


@kernel
def split(words: Any, size: int, planes: Any) -> None:
    """Take words apart.

    words: uint8[n * size], little-endian words of 2, 4 or 8 bytes.
    planes: uint8[size, n], written.
    """
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
    """The inverse of `split`.

    planes: a tuple of read-only uint8[n], one for each byte.
    words: uint8[n * len(planes)], written.
    """
    size, n = len(planes), planes[0].size
    i = 0
    if size == 2:
        while i + 16 <= n:
            store_u16(words, 2 * i, halves(planes, i))
            i += 16
    elif size == 4:
        while i + 16 <= n:
            w = load_u8(planes[0], i)
            for k in range(1, 4):
                w = (w << 8) | load_u8(planes[k], i)
            store_u32(words, 4 * i, (w >> 1) | (w << 31))
            i += 16
    bits = u64(8 * size)
    while i < n:
        word = u64(0)
        for k in range(size):
            word |= u64(planes[k][i]) << (bits - u64(8 * k + 8))
        word = (word >> u64(1)) | ((word & u64(1)) << (bits - u64(1)))
        for k in range(size):
            words[size * i + k] = u8((word >> u64(8 * k)) & u64(255))
        i += 1


@helper
def halves(planes: Any, i: int) -> Any:
    """Sixteen 16-bit words from place i of two planes on; what is above them is not zero."""
    low = load_u8(planes[1], i)
    return (load_u8(planes[0], i) << 7) | (low >> 1) | (low << 15)


@kernel
def bfloat16_values(planes: Any, out: Any) -> None:
    """The numbers of bfloat16 words, from two planes: float32[n], written."""
    n = out.size
    i = 0
    while i + 16 <= n:
        store(out, i, bits_float(halves(planes, i) << 16))
        i += 16
    while i < n:
        low = i32(planes[1][i])
        word = (i32(planes[0][i]) << i32(7)) | (low >> i32(1)) | (low << i32(15))
        out[i] = bits_float(i32(word << i32(16)))
        i += 1
