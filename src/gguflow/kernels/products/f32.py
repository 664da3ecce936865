"""F32 times a vector: the sums of sums.py with nothing to decode."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.f32 import word_to_float
from gguflow.kernels.policy import kernel
from gguflow.kernels.products.sums import SUMS, fold
from gguflow.lanes import bits_float, load, load_u32, splat, store

f32 = np.float32


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    n = x.size
    whole = n // SUMS * SUMS
    rest = np.empty(SUMS, f32)
    for row in range(out.size):
        start = 4 * n * row
        low = splat(f32(0))
        high = splat(f32(0))
        for i in range(0, whole, SUMS):
            low = low + bits_float(load_u32(blocks, start + 4 * i)) * load(x, i)
            high = high + bits_float(load_u32(blocks, start + 4 * i + 64)) * load(x, i + 16)
        if whole < n:
            store(rest, 0, low)
            store(rest, 16, high)
            for i in range(whole, n):
                rest[i - whole] += word_to_float(blocks, start + 4 * i) * x[i]
            low = load(rest, 0)
            high = load(rest, 16)
        out[row] = fold(low, high)
