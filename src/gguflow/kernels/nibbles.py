"""What the 4- and 5-bit formats of 32 weights share: the block's extremes, and how 32 codes lie in 16 bytes
of nibbles and 4 bytes of fifth bits.

Byte j of the nibbles holds weight j in its low half and weight j + 16 in its high half, so two vectors of 16
codes pack without a shuffle.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import (
    float_bits,
    lane_numbers,
    largest,
    load_u8,
    mask_bits,
    smallest,
    splat,
    store_u8,
    vabs,
    where,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32x16, I32x16, Int, Mask16, U8s

f32 = np.float32
i32 = np.int32
u32 = np.uint32


@kernel
def first_of(low_hits: Mask16, high_hits: Mask16, low_mask: Mask16, high_mask: Mask16) -> bool:
    """Whether the second pair of masks is set at the first of the 32 weights where the first pair is set
    (somewhere).
    """
    hits = u32(mask_bits(low_hits)) | (u32(mask_bits(high_hits)) << u32(16))
    marked = u32(mask_bits(low_mask)) | (u32(mask_bits(high_mask)) << u32(16))
    return (hits & (~hits + u32(1)) & marked) != u32(0)


@kernel
def signed_peak(low: F32x16, high: F32x16) -> f32:
    """Of the 32 weights the first with the largest magnitude, sign and all; +0 where all are zeros."""
    low_size = vabs(low)
    high_size = vabs(high)
    size = largest(where(low_size > high_size, low_size, high_size))
    negative = first_of(low_size == size, high_size == size, low < f32(0), high < f32(0))
    return -size if negative else size


@kernel
def bottom_and_top(low: F32x16, high: F32x16) -> tuple[f32, f32]:
    """The smallest and the largest of the 32 weights. A smallest that is zero is the first such zero, with
    its sign, as a scan would find it.
    """
    bottom = smallest(where(low < high, low, high))
    top = largest(where(low > high, low, high))
    if bottom == f32(0):
        bottom = f32(0)
        if first_of(low == f32(0), high == f32(0), float_bits(low) < 0, float_bits(high) < 0):
            bottom = f32(-0.0)
    return bottom, top


@kernel
def store_nibbles(out: U8s, i: Int, low: I32x16, high: I32x16) -> None:
    """Pack the low four bits of 16 + 16 codes into bytes i to i + 15."""
    store_u8(out, i, (low & 15) | (high << 4))


@kernel
def load_nibbles(blocks: U8s, i: Int) -> tuple[I32x16, I32x16]:
    """The codes of weights 0 to 15 and of 16 to 31 from bytes i to i + 15."""
    packed = load_u8(blocks, i)
    return packed & 15, packed >> 4


@kernel
def store_codes(out: U8s, i: Int, low: I32x16, high: I32x16, bits: int) -> None:
    """16 + 16 codes of four or five bits from byte i: the fifth bits, as one little-endian number, before the
    nibbles.
    """
    if bits == 5:
        fifth = u32(mask_bits((low & 16) != 0)) | (u32(mask_bits((high & 16) != 0)) << u32(16))
        for k in range(4):
            out[i + k] = np.uint8((fifth >> u32(8 * k)) & u32(255))
        i += 4
    store_nibbles(out, i, low, high)


@kernel
def load_codes(blocks: U8s, i: Int, bits: int) -> tuple[I32x16, I32x16]:
    """As load_nibbles, for four or five bits."""
    if bits == 4:
        return load_nibbles(blocks, i)
    low, high = load_nibbles(blocks, i + 4)
    low_fifth = i32(blocks[i]) | (i32(blocks[i + 1]) << i32(8))
    high_fifth = i32(blocks[i + 2]) | (i32(blocks[i + 3]) << i32(8))
    bit = splat(1) << lane_numbers()
    low = low | where((splat(low_fifth) & bit) != 0, splat(16), splat(0))
    high = high | where((splat(high_fifth) & bit) != 0, splat(16), splat(0))
    return low, high
