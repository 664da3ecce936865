"""Q4_0, Q4_1, Q5_0, Q5_1 with importance: the searches of the K-quants on 16 blocks of 32 weights at once.

A weight's error counts with importance * sqrt(mean square of the row + weight**2): the row, not the block, is what these formats average over.
Source: quantize_row_q4_0_impl and its siblings in ggml's ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import float_to_half, nearest_int, store_u16_scalar
from gguflow.kernels.nibbles import store_fifth_bits, store_nibbles
from gguflow.kernels.policy import kernel
from gguflow.kernels.search import clamp, fit_scale_min, fit_symmetric
from gguflow.lanes import load, splat, store, store_i32, transpose16, vsqrt

f32 = np.float32
i32 = np.int32

SIZE = 32
BATCH = 16


@kernel
def mean_squares(x: Any, n: int) -> Any:
    """float32[rows]: of each row of n weights (a multiple of 32) the sum of squares, first to last, over n. Sixteen rows advance together."""
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
def take_blocks(x: Any, importance: Any, means: Any, first: int, batch: Any, v: Any, w: Any) -> int:
    """Bring blocks first ... first + 15 into lanes.

    batch, v, w: float32[512], written: the weights in their order (zeros past the end of x), in lanes, and how much their errors count, in lanes.
    Returns how many blocks there were.
    """
    count = min(BATCH, x.size // SIZE - first)
    row_blocks = importance.size // SIZE
    mean = np.zeros(BATCH, np.float32)
    for k in range(BATCH):
        for i in range(0, SIZE, 16):
            if k < count:
                store(batch, k * SIZE + i, load(x, (first + k) * SIZE + i))
                store(w, k * SIZE + i, load(importance, (first + k) % row_blocks * SIZE + i))
            else:
                store(batch, k * SIZE + i, splat(f32(0)))
                store(w, k * SIZE + i, splat(f32(0)))
        if k < count:
            mean[k] = means[(first + k) // row_blocks]
    transpose16(w, 0, SIZE, v, 0)
    transpose16(w, 16, SIZE, v, 16)
    for i in range(0, 512, 16):
        store(w, i, load(v, i))
    transpose16(batch, 0, SIZE, v, 0)
    transpose16(batch, 16, SIZE, v, 16)
    for i in range(SIZE):
        u = load(v, 16 * i)
        store(w, 16 * i, load(w, 16 * i) * vsqrt(load(mean, 0) + u * u))
    return count


@kernel
def store_codes(out: Any, i: Any, low: Any, high: Any, bits: int) -> None:
    """Codes of four or five bits from byte i, the fifth bits before the nibbles."""
    if bits == 5:
        store_fifth_bits(out, i, low, high)
        i += 4
    store_nibbles(out, i, low, high)


@kernel
def quantize_symmetric(x: Any, importance: Any, out: Any, bits: int) -> None:
    """Q4_0 and Q5_0: d, codes from -n_max to n_max - 1 stored with n_max added."""
    n_max = 1 << (bits - 1)
    type_size = 18 if bits == 4 else 22
    batch, v, w, products = np.empty(512, np.float32), np.empty(512, np.float32), np.empty(512, np.float32), np.empty(512, np.float32)
    inverses, d = np.empty(BATCH, np.float32), np.empty(BATCH, np.int32)
    means = mean_squares(x, importance.size)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_blocks(x, importance, means, first, batch, v, w)
        scale, inverse = fit_symmetric(v, w, products, SIZE, n_max)
        store(inverses, 0, inverse)
        store_i32(d, 0, float_to_half(scale))
        for k in range(count):
            shift = n_max if inverses[k] != f32(0) else 0  # a block without scale has codes that are all 0
            low = clamp(nearest_int(load(batch, k * SIZE) * inverses[k]), -n_max, n_max - 1) + shift
            high = clamp(nearest_int(load(batch, k * SIZE + 16) * inverses[k]), -n_max, n_max - 1) + shift
            o = (first + k) * type_size
            store_u16_scalar(out, o, d[k])
            store_codes(out, o + 2, low, high, bits)


@kernel
def quantize_affine(x: Any, importance: Any, out: Any, bits: int) -> None:
    """Q4_1 and Q5_1: d and m, codes from 0 to n_max."""
    n_max = (1 << bits) - 1
    type_size = 20 if bits == 4 else 24
    batch, v, w, codes = np.empty(512, np.float32), np.empty(512, np.float32), np.empty(512, np.float32), np.empty(512, np.float32)
    inverses, bases = np.empty(BATCH, np.float32), np.empty(BATCH, np.float32)
    d, m = np.empty(BATCH, np.int32), np.empty(BATCH, np.int32)
    means = mean_squares(x, importance.size)
    for first in range(0, x.size // SIZE, BATCH):
        count = take_blocks(x, importance, means, first, batch, v, w)
        scale, low_end, inverse, base = fit_scale_min(v, w, codes, SIZE, n_max, f32(-0.9), f32(0.05), 36, False)
        store(inverses, 0, inverse)
        store(bases, 0, base)
        store_i32(d, 0, float_to_half(scale))
        store_i32(m, 0, float_to_half(low_end))
        for k in range(count):
            low = clamp(nearest_int((load(batch, k * SIZE) - bases[k]) * inverses[k]), 0, n_max)
            high = clamp(nearest_int((load(batch, k * SIZE + 16) - bases[k]) * inverses[k]), 0, n_max)
            o = (first + k) * type_size
            store_u16_scalar(out, o, d[k])
            store_u16_scalar(out, o + 2, m[k])
            store_codes(out, o + 4, low, high, bits)
