"""Decoded rows times some vectors: the sums of sums.py, several at a time, so that what is loaded is used
more than once.

How many at a time depends on the registers; in what order each is summed does not.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import has_wide_registers, load, splat
from gguflow.kernels.matmul.sums import SUMS, fold
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, F32x16, Int

f32 = np.float32


@kernel
def dot_tile(weights: F32s, x: F32s, n: int, out: F32s) -> None:
    """weights float32[rows * n], x float32[count * n], n a multiple of 32 -> out float32[count, rows]."""
    rows = weights.size // n
    count = x.size // n
    flat = out.reshape(-1)
    for r in range(rows):
        is_paired = has_wide_registers() and (r % 2 == 1 or r + 1 < rows)
        fours = count // 4 * 4 if is_paired else 0
        threes = fours + (count - fours) // 3 * 3
        if r % 2 == 0:
            for c in range(0, fours, 4):
                two_rows_four_vectors(weights, r * n, x, c * n, n, flat, c * rows + r, rows)
        for c in range(fours, threes, 3):
            three_vectors(weights, r * n, x, c * n, n, flat, c * rows + r, rows)
        for c in range(threes, count):
            one_vector(weights, r * n, x, c * n, n, flat, c * rows + r)


@helper
def no_sums() -> tuple[F32x16, F32x16]:
    """The two vectors of partial sums, empty."""
    return splat(f32(0)), splat(f32(0))


@helper
def add_products(
    sums: tuple[F32x16, F32x16], low: F32x16, high: F32x16, x: F32s, i: Int
) -> tuple[F32x16, F32x16]:
    """32 products more: of weights low and high with activations from x[i]."""
    return sums[0] + low * load(x, i), sums[1] + high * load(x, i + 16)


@helper
def one_vector(weights: F32s, w: Int, x: F32s, x0: Int, n: int, out: F32s, at: Int) -> None:
    """The row from weights[w] times the vector from x[x0], to out[at]."""
    sums = no_sums()
    for i in range(0, n, SUMS):
        sums = add_products(sums, load(weights, w + i), load(weights, w + i + 16), x, x0 + i)
    out[at] = fold(sums[0], sums[1])


@helper
def three_vectors(weights: F32s, w: Int, x: F32s, x0: Int, n: int, out: F32s, at: Int, stride: int) -> None:
    """The row times three vectors, to out[at], out[at + stride], ..."""
    x1 = x0 + n
    x2 = x1 + n
    sums0, sums1, sums2 = no_sums(), no_sums(), no_sums()
    for i in range(0, n, SUMS):
        low, high = load(weights, w + i), load(weights, w + i + 16)
        sums0 = add_products(sums0, low, high, x, x0 + i)
        sums1 = add_products(sums1, low, high, x, x1 + i)
        sums2 = add_products(sums2, low, high, x, x2 + i)
    out[at] = fold(sums0[0], sums0[1])
    out[at + stride] = fold(sums1[0], sums1[1])
    out[at + 2 * stride] = fold(sums2[0], sums2[1])


@helper
def two_rows_four_vectors(
    weights: F32s, w: Int, x: F32s, x0: Int, n: int, out: F32s, at: Int, stride: int
) -> None:
    """The row from weights[w] and the next times four vectors: 16 vectors of sums. The next row's products go
    behind those of the first.
    """
    x1 = x0 + n
    x2 = x1 + n
    x3 = x2 + n
    a0, a1, a2, a3 = no_sums(), no_sums(), no_sums(), no_sums()
    b0, b1, b2, b3 = no_sums(), no_sums(), no_sums(), no_sums()
    for i in range(0, n, SUMS):
        low, high = load(weights, w + i), load(weights, w + i + 16)
        next_low, next_high = load(weights, w + n + i), load(weights, w + n + i + 16)
        a0 = add_products(a0, low, high, x, x0 + i)
        b0 = add_products(b0, next_low, next_high, x, x0 + i)
        a1 = add_products(a1, low, high, x, x1 + i)
        b1 = add_products(b1, next_low, next_high, x, x1 + i)
        a2 = add_products(a2, low, high, x, x2 + i)
        b2 = add_products(b2, next_low, next_high, x, x2 + i)
        a3 = add_products(a3, low, high, x, x3 + i)
        b3 = add_products(b3, next_low, next_high, x, x3 + i)
    out[at] = fold(a0[0], a0[1])
    out[at + 1] = fold(b0[0], b0[1])
    out[at + stride] = fold(a1[0], a1[1])
    out[at + stride + 1] = fold(b1[0], b1[1])
    out[at + 2 * stride] = fold(a2[0], a2[1])
    out[at + 2 * stride + 1] = fold(b2[0], b2[1])
    out[at + 3 * stride] = fold(a3[0], a3[1])
    out[at + 3 * stride + 1] = fold(b3[0], b3[1])
