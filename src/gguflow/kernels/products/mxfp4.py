"""MXFP4 times a vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.fp4 import values as fp4_values
from gguflow.kernels.mxfp4 import BLOCK_SIZE, TYPE_SIZE
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.products.sums import fold, scratch
from gguflow.lanes import bits_float, lane_numbers, load, load_i32, load_u8, lookup16, splat, store, where

f32 = np.float32


@helper
def half_steps(e: Any) -> Any:
    """2**(e - 128) for lanes of stored exponents 0 to 255: half of what E8M0 says, because the E2M1 values are doubled."""
    return bits_float(where(e < 2, splat(0x200000) << e, (e - 1) << 23))


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    n_blocks = x.size // BLOCK_SIZE
    exponents, scales = scratch(n_blocks)
    codes = fp4_values(lane_numbers())
    for row in range(out.size):
        start = row * n_blocks * TYPE_SIZE
        for block in range(n_blocks):
            exponents[block] = blocks[start + TYPE_SIZE * block]
        for block in range(0, n_blocks, 16):
            store(scales, block, half_steps(load_i32(exponents, block)))
        low = splat(f32(0))
        high = splat(f32(0))
        for block in range(n_blocks):
            values = codes * scales[block]
            pairs = load_u8(blocks, start + TYPE_SIZE * block + 1)
            low = low + lookup16(values, pairs) * load(x, BLOCK_SIZE * block)
            high = high + lookup16(values, pairs >> 4) * load(x, BLOCK_SIZE * block + 16)
        out[row] = fold(low, high)
