"""Q8_0 on lanes: a block is two vectors; its largest magnitude is a reduction whose order does not matter."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.policy import kernel
from gguflow.lanes import bits_float, float_bits, largest, load, load_i8, store, store_u8, to_float, to_int, vabs, where

f32 = np.float32
i32 = np.int32

BLOCK_SIZE = 32
TYPE_SIZE = 34
BELOW_HALF = 0x3EFFFFFF


@kernel
def round_half_away(v: Any) -> Any:
    """C's roundf on lanes, as integers, for |v| < 2**22: nearest, ties away from zero.

    Toward zero after adding the largest float below a half: the sum rounds up to the next integer from the tie on, and never before it.
    """
    return to_int(v + bits_float((float_bits(v) & i32(-0x80000000)) | BELOW_HALF))


@kernel
def quantize_blocks(x: Any, out: Any) -> None:
    for block in range(x.size // BLOCK_SIZE):
        low = load(x, block * BLOCK_SIZE)
        high = load(x, block * BLOCK_SIZE + 16)
        low_size = vabs(low)
        high_size = vabs(high)
        d = largest(where(low_size > high_size, low_size, high_size)) / f32(127)
        inverse = f32(1) / d if d != f32(0) else f32(0)
        if inverse == f32(np.inf):  # d is denormal; ggml's products overflow to infinity and NaN, which x86 converts to the code 0
            inverse = f32(0)
        store_half(out, block * TYPE_SIZE, d)
        store_u8(out, block * TYPE_SIZE + 2, round_half_away(low * inverse))
        store_u8(out, block * TYPE_SIZE + 18, round_half_away(high * inverse))


@kernel
def dequantize_blocks(blocks: Any, out: Any) -> None:
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * TYPE_SIZE)
        store(out, block * BLOCK_SIZE, to_float(load_i8(blocks, block * TYPE_SIZE + 2)) * d)
        store(out, block * BLOCK_SIZE + 16, to_float(load_i8(blocks, block * TYPE_SIZE + 18)) * d)
