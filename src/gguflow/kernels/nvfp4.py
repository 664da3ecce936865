"""NVFP4 on lanes: a vector is a sub-block of 16 weights; two sub-blocks share a vector of packed bytes."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.finite import is_finite
from gguflow.kernels.fp4 import nearest_codes, nearest_codes_by_error, values
from gguflow.kernels.lanes import (
    bits_float,
    float_bits,
    join_high,
    join_low,
    largest,
    load,
    prefetch,
    store_onward,
    vabs,
)
from gguflow.kernels.nibbles import load_nibbles, store_nibbles
from gguflow.kernels.policy import kernel
from gguflow.kernels.ternary import AHEAD
from gguflow.kernels.types import F32s, I32x16, Int, U8s

f32 = np.float32
i32 = np.int32

BLOCK_SIZE = 64
TYPE_SIZE = 36
LARGEST = f32(448)  # of E4M3


@kernel
def to_ue4m3(v: f32) -> Int:
    """v >= 0 to the byte of E4M3 without sign, ties away from zero. Of the top binade, from 256 on, ggml uses
    only the largest number, 448.
    """
    bits = float_bits(f32(v))
    if bits < i32((127 - 6) << 23):  # below 2**-6: a multiple of 2**-9
        return i32(min(i32(v * f32(512) + f32(0.5)), i32(7)))
    code = ((bits + i32(1 << 19)) >> i32(20)) - i32((127 - 7) << 3)
    return code if code < i32(0x78) else i32(0x7E)


@kernel
def half_of_ue4m3(code: Int) -> f32:
    """Half the value of an E4M3 byte, because the E2M1 values are doubled. The top bit is ignored; 0x7F,
    E4M3's NaN, is zero as in ggml.
    """
    if code == 0x7F:
        return f32(0)
    if code & 0x78 == 0:
        return f32(code & 7) * f32(0.0009765625)  # 2**-10
    return bits_float(i32(((code & 0x7F) << 20) + ((127 - 7 - 1) << 23)))


@kernel
def encode_sub_block(x: F32s, first: Int, out: U8s, scale_at: Int) -> I32x16:
    """Write the scale of the 16 weights from element `first`; return their codes."""
    v = load(x, first)
    prefetch(x, first + AHEAD)
    top = largest(vabs(v)) / f32(6)
    code = to_ue4m3(top)
    out[scale_at] = code
    d = half_of_ue4m3(code)
    return nearest_codes_by_error(v, d) if top > LARGEST else nearest_codes(v, d)


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    for block in range(x.size // BLOCK_SIZE):
        i = block * BLOCK_SIZE
        if not is_finite(x, i, BLOCK_SIZE):
            return i
        o = block * TYPE_SIZE
        for s in range(0, 4, 2):
            a = encode_sub_block(x, i + 16 * s, out, o + s)
            b = encode_sub_block(x, i + 16 * s + 16, out, o + s + 1)
            store_nibbles(out, o + 4 + 8 * s, join_low(a, b), join_high(a, b))
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // BLOCK_SIZE):
        i = block * BLOCK_SIZE
        o = block * TYPE_SIZE
        for s in range(0, 4, 2):
            low, high = load_nibbles(blocks, o + 4 + 8 * s)
            low_step = half_of_ue4m3(i32(blocks[o + s]))
            high_step = half_of_ue4m3(i32(blocks[o + s + 1]))
            store_onward(out, i + 16 * s, values(join_low(low, high)) * low_step)
            store_onward(out, i + 16 * s + 16, values(join_high(low, high)) * high_step)
