"""F32: bytes as they are."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import bits_float, float_bits, load, load_u32, store_onward, store_u32
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, Int, U8s

f32 = np.float32


@kernel
def quantize_blocks(x: F32s, out: U8s) -> None:
    whole = x.size // 16 * 16
    for i in range(0, whole, 16):
        store_u32(out, i * 4, float_bits(load(x, i)))
    for i in range(whole, x.size):
        bits = float_bits(x[i])
        for k in range(4):
            out[i * 4 + k] = (bits >> (8 * k)) & 255


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    whole = out.size // 16 * 16
    for i in range(0, whole, 16):
        store_onward(out, i, bits_float(load_u32(blocks, i * 4)))
    for i in range(whole, out.size):
        out[i] = word_to_float(blocks, i * 4)


@kernel
def word_to_float(blocks: U8s, i: Int) -> f32:
    """The little-endian binary32 at byte i."""
    bits = 0
    for k in range(4):
        bits |= int(blocks[i + k]) << (8 * k)
    return bits_float(np.int32(bits))
