"""Q5_K times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.policy import kernel
from gguflow.kernels.products.q4_k import sub_steps
from gguflow.kernels.products.sums import fold
from gguflow.kernels.q5_k import QH, QS, TYPE_SIZE
from gguflow.kernels.super_blocks import SIZE
from gguflow.lanes import load, load_u8, splat, store, to_float

f32 = np.float32


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    n_blocks = x.size // SIZE
    steps = np.empty(16 * n_blocks, f32)
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        for block in range(n_blocks):
            store(steps, 16 * block, sub_steps(blocks, start + block * TYPE_SIZE))
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            fifth = load_u8(blocks, start + QH) << 4  # bit j of a byte belongs to sub-block j
            more_fifth = load_u8(blocks, start + QH + 16) << 4
            for k in range(4):
                pairs = load_u8(blocks, start + QS + 32 * k)
                more_pairs = load_u8(blocks, start + QS + 32 * k + 16)
                i = SIZE * block + 64 * k
                step = steps[16 * block + 2 * k]
                offset = steps[16 * block + 2 * k + 8]
                low = low + (to_float((pairs & 15) | ((fifth >> (2 * k)) & 16)) * step - offset) * load(x, i)
                high = high + (to_float((more_pairs & 15) | ((more_fifth >> (2 * k)) & 16)) * step - offset) * load(x, i + 16)
                step = steps[16 * block + 2 * k + 1]
                offset = steps[16 * block + 2 * k + 9]
                low = low + (to_float((pairs >> 4) | ((fifth >> (2 * k + 1)) & 16)) * step - offset) * load(x, i + 32)
                high = high + (to_float((more_pairs >> 4) | ((more_fifth >> (2 * k + 1)) & 16)) * step - offset) * load(x, i + 48)
            start += TYPE_SIZE
        out[row] = fold(low, high)
