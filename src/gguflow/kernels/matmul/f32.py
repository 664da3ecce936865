"""F32 times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.f32 import word_to_float
from gguflow.kernels.lanes import bits_float, load, load_u32, splat
from gguflow.kernels.matmul.numbers import padded_rest
from gguflow.kernels.matmul.sums import SUMS, fetch_ahead, fold
from gguflow.kernels.policy import kernel

f32 = np.float32


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    n = x.size
    whole = n // SUMS * SUMS
    rest = np.zeros(SUMS, f32)
    rest_x = padded_rest(x)
    for row in range(out.size):
        start = 4 * n * row
        low = splat(f32(0))
        high = splat(f32(0))
        for i in range(0, whole, SUMS):
            fetch_ahead(blocks, start + 4 * i, 4 * SUMS)
            low = low + bits_float(load_u32(blocks, start + 4 * i)) * load(x, i)
            high = high + bits_float(load_u32(blocks, start + 4 * i + 64)) * load(x, i + 16)
        for i in range(whole, n):
            rest[i - whole] = word_to_float(blocks, start + 4 * i)
        low = low + load(rest, 0) * load(rest_x, 0)
        high = high + load(rest, 16) * load(rest_x, 16)
        out[row] = fold(low, high)
