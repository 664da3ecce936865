"""TQ1_0 on lanes: five ternary digits in a byte, 32, 16 or 4 weights apart."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.lanes import load, load_u8, store_i32, store_onward, store_u8, to_float
from gguflow.kernels.policy import kernel
from gguflow.kernels.ternary import inverse_scale, peak, ternary_codes
from gguflow.kernels.types import F32s, I32x16, Int, U8s

f32 = np.float32

i32 = np.int32

BLOCK_SIZE = 256
TYPE_SIZE = 54
QH = 48  # byte of the last four packed bytes, with four digits each
D = 52


@kernel
def fixed_point(number: I32x16 | Int) -> I32x16 | Int:
    """ceil(number * 256 / 243) for five ternary digits, 0 to 242; lanes or scalar. Multiplying that byte by 3
    carries out the first digit.

    That is number + ceil(13 * number / 243); the division by 243 is a multiplication by 4316 / 2**20, exact
    in this range.
    """
    return number + (((number * 13 + 242) * 4316) >> 20)


@kernel
def pack_digits(x: F32s, first: Int, stride: int, inverse: f32) -> I32x16:
    """Lane m: the packed digits of the weights first + m + stride * n, n = 0 ... 4, the first digit the most
    significant.
    """
    number = ternary_codes(load(x, first) * inverse)
    for n in range(1, 5):
        number = number * 3 + ternary_codes(load(x, first + stride * n) * inverse)
    return fixed_point(number)


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    last = np.empty(16, np.int32)
    for block in range(x.size // BLOCK_SIZE):
        i = block * BLOCK_SIZE
        if not is_finite(x, i, BLOCK_SIZE):
            return i
        o = block * TYPE_SIZE
        d = peak(x, i, BLOCK_SIZE)
        store_half(out, o + D, d)
        inverse = inverse_scale(d)
        store_u8(out, o, pack_digits(x, i, 32, inverse))
        store_u8(out, o + 16, pack_digits(x, i + 16, 32, inverse))
        store_u8(out, o + 32, pack_digits(x, i + 160, 16, inverse))
        store_i32(last, 0, ternary_codes(load(x, i + 240) * inverse))
        for j in range(4):
            number = ((last[j] * 3 + last[j + 4]) * 3 + last[j + 8]) * 9 + last[j + 12] * 3
            out[o + QH + j] = fixed_point(number)
    return x.size


@kernel
def store_digits(packed: I32x16, d: f32, out: F32s, first: Int, stride: int) -> None:
    """The five digits of each of 16 bytes, times d, to first + stride * n."""
    for n in range(5):
        tripled = packed + packed + packed
        store_onward(out, first + stride * n, to_float((tripled >> 8) + -1) * d)
        packed = tripled & 255


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // BLOCK_SIZE):
        i = block * BLOCK_SIZE
        o = block * TYPE_SIZE
        d = load_half(blocks, o + D)
        store_digits(load_u8(blocks, o), d, out, i, 32)
        store_digits(load_u8(blocks, o + 16), d, out, i + 16, 32)
        store_digits(load_u8(blocks, o + 32), d, out, i + 160, 16)
        for j in range(4):
            packed = i32(blocks[o + QH + j])
            for n in range(4):
                out[i + 240 + 4 * n + j] = np.float32((packed * i32(3) >> i32(8)) - i32(1)) * d
                packed = packed * i32(3) & i32(255)
