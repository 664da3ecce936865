"""Q4_1 on lanes: a block is two vectors, its extremes are reductions whose order does not matter."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.legacy_search import quantize_affine
from gguflow.kernels.nibbles import bottom_and_top, load_nibbles, store_nibbles
from gguflow.kernels.policy import kernel
from gguflow.lanes import load, splat, store, to_float, to_int, vabs, where

f32 = np.float32

BLOCK_SIZE = 32
TYPE_SIZE = 20


@kernel
def quantize_blocks(x: Any, out: Any) -> None:
    for block in range(x.size // BLOCK_SIZE):
        low = load(x, block * BLOCK_SIZE)
        high = load(x, block * BLOCK_SIZE + 16)
        bottom, top = bottom_and_top(low, high)
        d = vabs(top - bottom) / f32(15)
        store_half(out, block * TYPE_SIZE, d)
        store_half(out, block * TYPE_SIZE + 2, bottom)
        inverse = f32(1) / d
        low_codes = high_codes = splat(0)
        if f32(0) < inverse < f32(np.inf):  # else d is zero, denormal or infinite, and every product of ggml's converts to the code 0
            low_codes = to_int((low - bottom) * inverse + f32(0.5))
            high_codes = to_int((high - bottom) * inverse + f32(0.5))
        store_nibbles(out, block * TYPE_SIZE + 4, where(low_codes > 15, 15, low_codes), where(high_codes > 15, 15, high_codes))


@kernel
def quantize_blocks_weighted(x: Any, importance: Any, out: Any) -> None:
    quantize_affine(x, importance, out, 4)


@kernel
def dequantize_blocks(blocks: Any, out: Any) -> None:
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * TYPE_SIZE)
        m = load_half(blocks, block * TYPE_SIZE + 2)
        low, high = load_nibbles(blocks, block * TYPE_SIZE + 4)
        store(out, block * BLOCK_SIZE, to_float(low) * d + m)
        store(out, block * BLOCK_SIZE + 16, to_float(high) * d + m)
