"""F32, F16 and BF16 times a vector: rows of any length, whose last product is not the last of 32."""

from __future__ import annotations

import numpy as np
from numba import literally

from gguflow.kernels.f32 import word_to_float
from gguflow.kernels.lanes import bits_float, load, load_half_word, load_u16, load_u32, splat
from gguflow.kernels.matmul.halves import load_half, load_halves
from gguflow.kernels.matmul.sums import SUMS, fetch_ahead, fold
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, F32x16, Int, U8s

f32 = np.float32
i32 = np.int32

F32, F16, BF16 = 0, 1, 2  # kinds of numbers


@helper
def dot_rows(blocks: U8s, x: F32s, out: F32s, kind: int) -> None:
    """kind: a constant where a kernel calls; each kind is compiled by itself, so that no loop asks for it."""
    literally(kind)
    n = x.size
    size = 4 if kind == F32 else 2
    whole = n // SUMS * SUMS
    rest = np.zeros(SUMS, f32)
    rest_x = padded_rest(x)
    for row in range(out.size):
        start = size * n * row
        low = splat(f32(0))
        high = splat(f32(0))
        for i in range(0, whole, SUMS):
            at = start + size * i
            fetch_ahead(blocks, at, size * SUMS)
            low = low + load_numbers(blocks, at, kind) * load(x, i)
            high = high + load_numbers(blocks, at + size * 16, kind) * load(x, i + 16)
        for i in range(whole, n):
            rest[i - whole] = load_number(blocks, start + size * i, kind)
        low = low + load(rest, 0) * load(rest_x, 0)
        high = high + load(rest, 16) * load(rest_x, 16)
        out[row] = fold(low, high)


@helper
def load_numbers(blocks: U8s, i: Int, kind: int) -> F32x16:
    """The 16 numbers from byte i of a flat uint8 array, as float lanes."""
    if kind == F32:
        return bits_float(load_u32(blocks, i))
    if kind == F16:
        return load_halves(blocks, i)
    return bits_float(load_u16(blocks, i) << 16)


@helper
def load_number(blocks: U8s, i: Int, kind: int) -> f32:
    """The number at byte i of a flat uint8 array, as float32."""
    if kind == F32:
        return word_to_float(blocks, i)
    if kind == F16:
        return load_half(blocks, i)
    return bits_float(i32(load_half_word(blocks, i)) << i32(16))


@helper
def padded_rest(x: F32s) -> F32s:
    """The last x.size % 32 activations and zeros behind them, float32[32]: with zeros for weights, they add
    nothing to any sum.
    """
    rest = np.zeros(SUMS, f32)
    whole = x.size // SUMS * SUMS
    for i in range(whole, x.size):
        rest[i - whole] = x[i]
    return rest
