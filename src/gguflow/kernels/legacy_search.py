"""Q4_0, Q4_1, Q5_0, Q5_1 with importance: the searches of the K-quants on 16 blocks of 32 weights at once.

A weight's error counts with importance * sqrt(mean square of the row + weight**2): the row, not the block, is
what these formats average over. Source: quantize_row_q4_0_impl and its siblings in ggml's ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import float_to_half, nearest_int, store_u16_scalar
from gguflow.kernels.finite import is_finite
from gguflow.kernels.fits import clamp, fit_scale_min, fit_symmetric
from gguflow.kernels.lanes import load, splat, store, store_i32, transpose16, vsqrt
from gguflow.kernels.nibbles import store_codes
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, U8s

f32 = np.float32
i32 = np.int32

SIZE = 32
BATCH = 16


@kernel
def mean_squares(x: F32s, n: int) -> F32s:
    """float32[rows]: of each row of n weights (a multiple of 32) the sum of squares, first to last, over n.
    Sixteen rows advance together.
    """
    n_rows = x.size // n
    means = np.empty(n_rows, np.float32)
    columns = np.empty(256, np.float32)
    whole = n_rows // 16 * 16
    for row in range(0, whole, 16):
        total = splat(f32(0))
        for start in range(0, n, 16):
            transpose16(x, row * n + start, n, columns, 0)
            for i in range(16):
                v = load(columns, 16 * i)
                total = total + v * v
        store(means, row, total / f32(n))
    for row in range(whole, n_rows):
        mean = f32(0)
        for i in range(row * n, (row + 1) * n):
            mean += x[i] * x[i]
        means[row] = mean / f32(n)
    return means


@kernel
def take_blocks(
    x: F32s, importance: F32s, means: F32s, first: int, batch: F32s, v: F32s, w: F32s, at: int
) -> None:
    """Bring blocks first ... first + 15 into lanes; past the end of x come blocks of zeros.

    Written from element `at`, 512 floats each: batch, the weights in their order; v, the weights in lanes; w,
    how much their errors count, in lanes.
    """
    row_blocks = importance.size // SIZE
    n_blocks = x.size // SIZE
    mean = np.zeros(BATCH, np.float32)
    for k in range(BATCH):
        block = first + k
        for i in range(0, SIZE, 16):
            store(batch, at + k * SIZE + i, load(x, block * SIZE + i) if block < n_blocks else splat(f32(0)))
            store(w, at + k * SIZE + i, load(importance, block % row_blocks * SIZE + i))
        if block < n_blocks:
            mean[k] = means[block // row_blocks]
    for i in range(0, SIZE, 16):
        transpose16(w, at + i, SIZE, v, at // 16 + i)
    for i in range(at, at + SIZE * 16, 16):
        store(w, i, load(v, i))
    for i in range(0, SIZE, 16):
        transpose16(batch, at + i, SIZE, v, at // 16 + i)
    for i in range(at, at + SIZE * 16, 16):
        u = load(v, i)
        store(w, i, load(w, i) * vsqrt(load(mean, 0) + u * u))


@kernel
def quantize_symmetric(x: F32s, importance: F32s, out: U8s, bits: int) -> int:
    """Q4_0 and Q5_0: d, codes from -n_max to n_max - 1 stored with n_max added."""
    n_max = 1 << (bits - 1)
    type_size = 2 + 4 * bits
    batch = np.empty(512, np.float32)
    v = np.empty(512, np.float32)
    w = np.empty(512, np.float32)
    products = np.empty(512, np.float32)
    inverses = np.empty(BATCH, np.float32)
    d = np.empty(BATCH, np.int32)
    if not is_finite(x, 0, x.size):  # all at once: a weight counts in the mean of its whole row
        return 0
    means = mean_squares(x, importance.size)
    for first in range(0, x.size // SIZE, BATCH):
        take_blocks(x, importance, means, first, batch, v, w, 0)
        scale, inverse = fit_symmetric(v, w, products, SIZE, n_max, True)
        store(inverses, 0, inverse)
        store_i32(d, 0, float_to_half(scale))
        for k in range(min(BATCH, x.size // SIZE - first)):
            shift = n_max if inverses[k] != f32(0) else 0  # a block without scale has codes that are all 0
            low = clamp(nearest_int(load(batch, k * SIZE) * inverses[k]), -n_max, n_max - 1) + shift
            high = clamp(nearest_int(load(batch, k * SIZE + 16) * inverses[k]), -n_max, n_max - 1) + shift
            o = (first + k) * type_size
            store_u16_scalar(out, o, d[k])
            store_codes(out, o + 2, low, high, bits)
    return x.size


@kernel
def quantize_affine(x: F32s, importance: F32s, out: U8s, bits: int) -> int:
    """Q4_1 and Q5_1: d and m, codes from 0 to n_max."""
    n_max = (1 << bits) - 1
    type_size = 4 + 4 * bits
    batch = np.empty(1024, np.float32)
    v = np.empty(1024, np.float32)
    w = np.empty(1024, np.float32)
    codes = np.empty(1024, np.float32)
    inverses = np.empty(2 * BATCH, np.float32)
    bases = np.empty(2 * BATCH, np.float32)
    d = np.empty(2 * BATCH, np.int32)
    m = np.empty(2 * BATCH, np.int32)
    if not is_finite(x, 0, x.size):  # all at once: a weight counts in the mean of its whole row
        return 0
    means = mean_squares(x, importance.size)
    for first in range(0, x.size // SIZE, 2 * BATCH):
        take_blocks(x, importance, means, first, batch, v, w, 0)
        take_blocks(x, importance, means, first + BATCH, batch, v, w, 512)
        fits = fit_scale_min(v, w, codes, SIZE, n_max, f32(-0.9), f32(0.05), 36, False)
        for at, fit in ((0, fits[0]), (BATCH, fits[1])):
            store(inverses, at, fit.inverse)
            store(bases, at, fit.base)
            store_i32(d, at, float_to_half(fit.scale))
            store_i32(m, at, float_to_half(fit.low))
        for k in range(min(2 * BATCH, x.size // SIZE - first)):
            low = clamp(nearest_int((load(batch, k * SIZE) - bases[k]) * inverses[k]), 0, n_max)
            high = clamp(nearest_int((load(batch, k * SIZE + 16) - bases[k]) * inverses[k]), 0, n_max)
            o = (first + k) * type_size
            store_u16_scalar(out, o, d[k])
            store_u16_scalar(out, o + 2, m[k])
            store_codes(out, o + 4, low, high, bits)
    return x.size
