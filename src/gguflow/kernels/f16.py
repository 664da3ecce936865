"""F16 on lanes, in integer arithmetic (see bits.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import float_to_half, float_to_half_scalar, half_to_float, half_to_float_scalar
from gguflow.kernels.policy import kernel
from gguflow.lanes import load, load_u16, prefetch, store, store_u16

i32 = np.int32

AHEAD = 2048  # numbers, 8 KiB: fetched into the cache before their turn


@kernel
def quantize_blocks(x: Any, out: Any) -> None:
    whole = x.size // 16 * 16
    for i in range(0, whole, 16):
        prefetch(x, i + AHEAD)
        store_u16(out, i * 2, float_to_half(load(x, i)))
    for i in range(whole, x.size):
        half = float_to_half_scalar(x[i])
        out[2 * i] = half & i32(255)
        out[2 * i + 1] = (half >> i32(8)) & i32(255)


@kernel
def dequantize_blocks(blocks: Any, out: Any) -> None:
    whole = out.size // 16 * 16
    for i in range(0, whole, 16):
        store(out, i, half_to_float(load_u16(blocks, i * 2)))
    for i in range(whole, out.size):
        out[i] = half_to_float_scalar(i32(blocks[2 * i]) | (i32(blocks[2 * i + 1]) << i32(8)))
