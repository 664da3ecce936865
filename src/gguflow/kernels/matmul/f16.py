"""F16 times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.lanes import load, splat
from gguflow.kernels.matmul.halves import load_half, load_halves
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
        start = 2 * n * row
        low = splat(f32(0))
        high = splat(f32(0))
        for i in range(0, whole, SUMS):
            fetch_ahead(blocks, start + 2 * i, 2 * SUMS)
            low = low + load_halves(blocks, start + 2 * i) * load(x, i)
            high = high + load_halves(blocks, start + 2 * i + 32) * load(x, i + 16)
        for i in range(whole, n):
            rest[i - whole] = load_half(blocks, start + 2 * i)
        low = low + load(rest, 0) * load(rest_x, 0)
        high = high + load(rest, 16) * load(rest_x, 16)
        out[row] = fold(low, high)
