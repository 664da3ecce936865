"""F16 on lanes, in integer arithmetic (see bits.py)."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import (
    float_to_half,
    float_to_half_scalar,
    floats_before_line,
    half_to_float,
    load_half,
)
from gguflow.kernels.lanes import load, load_u16, prefetch, store_onward, store_u16
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, U8s

i32 = np.int32

AHEAD = 2048  # numbers, 8 KiB: fetched into the cache before their turn


@kernel
def quantize_blocks(x: F32s, out: U8s) -> None:
    whole = x.size // 16 * 16
    for i in range(0, whole, 16):
        prefetch(x, i + AHEAD)
        store_u16(out, i * 2, float_to_half(load(x, i)))
    for i in range(whole, x.size):
        half = float_to_half_scalar(x[i])
        out[2 * i] = half & i32(255)
        out[2 * i + 1] = (half >> i32(8)) & i32(255)


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    start = floats_before_line(out)
    stop = start + (out.size - start) // 16 * 16
    dequantize_one_by_one(blocks, out, 0, start)
    for i in range(start, stop, 16):
        store_onward(out, i, half_to_float(load_u16(blocks, i * 2)))
    dequantize_one_by_one(blocks, out, stop, out.size)


@kernel
def dequantize_one_by_one(blocks: U8s, out: F32s, first: int, last: int) -> None:
    for i in range(first, last):
        out[i] = load_half(blocks, 2 * i)
