"""Q8_0 times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.policy import kernel
from gguflow.kernels.products.halves import load_scales
from gguflow.kernels.products.sums import fold, scratch
from gguflow.kernels.q8_0 import BLOCK_SIZE, TYPE_SIZE
from gguflow.lanes import load, load_i8, splat, to_float

f32 = np.float32


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    n_blocks = x.size // BLOCK_SIZE
    words, scales = scratch(n_blocks)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        load_scales(blocks, start, TYPE_SIZE, n_blocks, words, scales)
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            d = scales[block]
            codes = start + TYPE_SIZE * block + 2
            low = low + to_float(load_i8(blocks, codes)) * d * load(x, BLOCK_SIZE * block)
            high = high + to_float(load_i8(blocks, codes + 16)) * d * load(x, BLOCK_SIZE * block + 16)
        out[row] = fold(low, high)
