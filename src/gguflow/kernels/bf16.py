"""BF16 on lanes: the upper half of a binary32, rounded to nearest even."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import floats_before_line
from gguflow.kernels.lanes import (
    bits_float,
    float_bits,
    load,
    load_u16,
    prefetch,
    store_onward,
    store_u16,
    where,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, U8s

i32 = np.int32

AHEAD = 2048  # numbers, 8 KiB: fetched into the cache before their turn


@kernel
def quantize_blocks(x: F32s, out: U8s) -> None:
    whole = x.size // 16 * 16
    for i in range(0, whole, 16):
        prefetch(x, i + AHEAD)
        bits = float_bits(load(x, i))
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        store_u16(out, i * 2, where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16) | 64, rounded))
    for i in range(whole, x.size):
        word = np.uint32(float_bits(x[i]))
        if (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
            upper = (word >> np.uint32(16)) | np.uint32(64)
        else:
            upper = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        out[2 * i] = upper & np.uint32(255)
        out[2 * i + 1] = (upper >> np.uint32(8)) & np.uint32(255)


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    start = floats_before_line(out)
    stop = start + (out.size - start) // 16 * 16
    dequantize_one_by_one(blocks, out, 0, start)
    for i in range(start, stop, 16):
        store_onward(out, i, bits_float(load_u16(blocks, i * 2) << 16))
    dequantize_one_by_one(blocks, out, stop, out.size)


@kernel
def dequantize_one_by_one(blocks: U8s, out: F32s, first: int, last: int) -> None:
    for i in range(first, last):
        out[i] = bits_float(i32((i32(blocks[2 * i]) << i32(16)) | (i32(blocks[2 * i + 1]) << i32(24))))
