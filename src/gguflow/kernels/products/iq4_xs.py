"""IQ4_XS times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.iq4 import VALUES
from gguflow.kernels.iq4_xs import N_SUB_BLOCKS, SUB_BLOCK, TYPE_SIZE
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.products.halves import load_half
from gguflow.kernels.products.sums import fold
from gguflow.kernels.super_blocks import SIZE
from gguflow.lanes import lane_numbers, load, load_half_word, load_u8, load_word, lookup16, splat, store, to_float

f32 = np.float32


@helper
def sub_scales(blocks: Any, start: Any) -> Any:
    """Of the super-block at byte `start`: d * scale of its eight sub-blocks, as lanes, twice."""
    b = lane_numbers() & 7
    low = (splat(load_word(blocks, start + 4)) >> (4 * b)) & 15
    high = (splat(load_half_word(blocks, start + 2)) >> (2 * b)) & 3
    return to_float((low | (high << 4)) - 32) * load_half(blocks, start)


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    n_blocks = x.size // SIZE
    steps = np.empty(16 * n_blocks, f32)
    codes = load(VALUES, 0)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        for block in range(n_blocks):
            store(steps, 16 * block, sub_scales(blocks, start + block * TYPE_SIZE))
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            for b in range(N_SUB_BLOCKS):
                values = codes * steps[16 * block + b]
                pairs = load_u8(blocks, start + 8 + 16 * b)
                i = SIZE * block + SUB_BLOCK * b
                low = low + lookup16(values, pairs) * load(x, i)
                high = high + lookup16(values, pairs >> 4) * load(x, i + 16)
            start += TYPE_SIZE
        out[row] = fold(low, high)
