"""Q4_0 times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.legacy import BLOCK_SIZE
from gguflow.kernels.policy import kernel
from gguflow.kernels.products.halves import load_scales
from gguflow.kernels.products.sums import fold, scratch
from gguflow.lanes import lane_numbers, load, load_u8, lookup16, splat, to_float

f32 = np.float32

TYPE_SIZE = 18


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    n_blocks = x.size // BLOCK_SIZE
    words, scales = scratch(n_blocks)
    codes = to_float(lane_numbers() - 8)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        load_scales(blocks, start, TYPE_SIZE, n_blocks, words, scales)
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            values = codes * scales[block]
            pairs = load_u8(blocks, start + TYPE_SIZE * block + 2)
            low = low + lookup16(values, pairs) * load(x, BLOCK_SIZE * block)
            high = high + lookup16(values, pairs >> 4) * load(x, BLOCK_SIZE * block + 16)
        out[row] = fold(low, high)
