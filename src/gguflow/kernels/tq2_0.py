"""TQ2_0 on lanes: byte m holds the codes of the weights m, m + 32, m + 64, m + 96, so four vectors pack
without a shuffle.
"""

from __future__ import annotations

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.lanes import load, load_u8, store_onward, store_u8, to_float
from gguflow.kernels.policy import kernel
from gguflow.kernels.ternary import inverse_scale, peak, ternary_codes
from gguflow.kernels.types import F32s, U8s

BLOCK_SIZE = 256
TYPE_SIZE = 66


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    for block in range(x.size // BLOCK_SIZE):
        i = block * BLOCK_SIZE
        if not is_finite(x, i, BLOCK_SIZE):
            return i
        o = block * TYPE_SIZE
        d = peak(x, i, BLOCK_SIZE)
        store_half(out, o + 64, d)
        inverse = inverse_scale(d)
        for half in range(2):
            for m in range(0, 32, 16):
                at = i + 128 * half + m
                packed = ternary_codes(load(x, at) * inverse)
                for n in range(1, 4):
                    packed = packed | (ternary_codes(load(x, at + 32 * n) * inverse) << (2 * n))
                store_u8(out, o + 32 * half + m, packed)
    return x.size


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    for block in range(out.size // BLOCK_SIZE):
        i = block * BLOCK_SIZE
        o = block * TYPE_SIZE
        d = load_half(blocks, o + 64)
        for half in range(2):
            for m in range(0, 32, 16):
                packed = load_u8(blocks, o + 32 * half + m)
                for n in range(4):
                    codes = (packed >> (2 * n)) & 3
                    store_onward(out, i + 128 * half + m + 32 * n, to_float(codes + -1) * d)
