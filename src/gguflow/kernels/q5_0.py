"""Q5_0 on lanes: Q4_0 with a fifth bit, kept apart from the nibbles."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.legacy_search import quantize_symmetric
from gguflow.kernels.nibbles import load_five_bits, signed_peak, store_fifth_bits, store_nibbles
from gguflow.kernels.policy import kernel
from gguflow.lanes import load, store, to_float, to_int, vabs, where

f32 = np.float32

BLOCK_SIZE = 32
TYPE_SIZE = 22


@kernel
def quantize_blocks(x: Any, out: Any) -> None:
    for block in range(x.size // BLOCK_SIZE):
        low = load(x, block * BLOCK_SIZE)
        high = load(x, block * BLOCK_SIZE + 16)
        d = signed_peak(low, high) / f32(-16)
        inverse = f32(1) / d if d != f32(0) else f32(0)
        rounder = f32(16.5)
        if vabs(inverse) == f32(np.inf):  # d is denormal; ggml's products overflow to infinity and NaN, which x86 converts to the code 0
            inverse = rounder = f32(0)
        store_half(out, block * TYPE_SIZE, d)
        low_codes = to_int(low * inverse + rounder)
        high_codes = to_int(high * inverse + rounder)
        low_codes = where(low_codes > 31, 31, low_codes)
        high_codes = where(high_codes > 31, 31, high_codes)
        store_fifth_bits(out, block * TYPE_SIZE + 2, low_codes, high_codes)
        store_nibbles(out, block * TYPE_SIZE + 6, low_codes, high_codes)


@kernel
def quantize_blocks_weighted(x: Any, importance: Any, out: Any) -> None:
    quantize_symmetric(x, importance, out, 5)


@kernel
def dequantize_blocks(blocks: Any, out: Any) -> None:
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * TYPE_SIZE)
        low, high = load_five_bits(blocks, block * TYPE_SIZE + 2, block * TYPE_SIZE + 6)
        store(out, block * BLOCK_SIZE, to_float(low + -16) * d)
        store(out, block * BLOCK_SIZE + 16, to_float(high + -16) * d)
