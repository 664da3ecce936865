"""Q4_0 on lanes: a block is two vectors, its peak a reduction whose order does not matter."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.legacy_search import quantize_symmetric
from gguflow.kernels.nibbles import load_nibbles, signed_peak, store_nibbles
from gguflow.kernels.policy import kernel
from gguflow.lanes import load, store, to_float, to_int, vabs, where

f32 = np.float32

BLOCK_SIZE = 32
TYPE_SIZE = 18


@kernel
def quantize_blocks(x: Any, out: Any) -> None:
    for block in range(x.size // BLOCK_SIZE):
        low = load(x, block * BLOCK_SIZE)
        high = load(x, block * BLOCK_SIZE + 16)
        d = signed_peak(low, high) / f32(-8)
        inverse = f32(1) / d if d != f32(0) else f32(0)
        rounder = f32(8.5)
        if vabs(inverse) == f32(np.inf):  # d is denormal; ggml's products overflow to infinity and NaN, which x86 converts to the code 0
            inverse = rounder = f32(0)
        store_half(out, block * TYPE_SIZE, d)
        low_codes = to_int(low * inverse + rounder)
        high_codes = to_int(high * inverse + rounder)
        store_nibbles(out, block * TYPE_SIZE + 2, where(low_codes > 15, 15, low_codes), where(high_codes > 15, 15, high_codes))


@kernel
def quantize_blocks_weighted(x: Any, importance: Any, out: Any) -> None:
    quantize_symmetric(x, importance, out, 4)


@kernel
def dequantize_blocks(blocks: Any, out: Any) -> None:
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * TYPE_SIZE)
        low, high = load_nibbles(blocks, block * TYPE_SIZE + 2)
        store(out, block * BLOCK_SIZE, to_float(low + -8) * d)
        store(out, block * BLOCK_SIZE + 16, to_float(high + -8) * d)
