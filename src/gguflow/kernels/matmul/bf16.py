"""BF16 times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.lanes import bits_float, load, load_half_word, load_u16, splat
from gguflow.kernels.matmul.numbers import padded_rest
from gguflow.kernels.matmul.sums import SUMS, fetch_ahead, fold
from gguflow.kernels.policy import kernel

f32 = np.float32
i32 = np.int32


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
            low = low + bits_float(load_u16(blocks, start + 2 * i) << 16) * load(x, i)
            high = high + bits_float(load_u16(blocks, start + 2 * i + 32) << 16) * load(x, i + 16)
        for i in range(whole, n):
            rest[i - whole] = bits_float(i32(load_half_word(blocks, start + 2 * i)) << i32(16))
        low = low + load(rest, 0) * load(rest_x, 0)
        high = high + load(rest, 16) * load(rest_x, 16)
        out[row] = fold(low, high)
