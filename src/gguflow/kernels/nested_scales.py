"""Scales as they are stored: rounded to a type, or quantized in super-blocks. All is done on one value at a
time: scales are few.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import float_to_half_scalar, half_to_float_scalar, nearest_int_scalar
from gguflow.kernels.lanes import bits_float, float_bits
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, Int, U8s

f32 = np.float32
i32 = np.int32

LARGEST = f32(np.finfo(np.float32).max)
F32, F16, BF16 = 0, 1, 2
"""As gguflow.parametric.axes.ScaleType."""


@helper
def affine_scale(bottom: f32, top: f32, q_max: f32) -> f32:
    """The step from bottom to top in q_max steps; apart where the difference overflows."""
    span = f32(top - bottom)
    if span < f32(np.inf):
        return f32(span / q_max)
    return f32(f32(top / q_max) - f32(bottom / q_max))


@helper
def stored(value: f32, scale_type: int) -> f32:
    """What a reader gets of a scale: rounded to its type, ties to even; beyond the largest finite value, that
    one.
    """
    if scale_type == F16:
        half = float_to_half_scalar(value)
        if half & i32(0x7FFF) == i32(0x7C00):
            half = half - i32(1)
        return half_to_float_scalar(half)
    if scale_type == BF16:
        bits = float_bits(f32(value))
        rounded = (bits + i32(0x7FFF) + ((bits >> i32(16)) & i32(1))) & i32(-0x10000)
        if rounded & i32(0x7FFFFFFF) == i32(0x7F800000):
            rounded = rounded - i32(0x10000)
        return bits_float(i32(rounded))
    return min(f32(value), LARGEST)


@helper
def clamped_code(v: f32, q_max: int) -> Int:
    """The nearest integer to v, ties to even, within 0 to q_max."""
    if not v > f32(0):
        return i32(0)
    if v > f32(q_max):
        return i32(q_max)
    return nearest_int_scalar(v)


@helper
def nest(
    values: F32s,
    first: int,
    last: int,
    with_offset: bool,
    bits: int,
    scale_type: int,
    codes: U8s,
    meta: F32s,
    at: int,
) -> None:
    """Quantize values[first:last] in place to `bits`; meta[at] gets the meta-scale, meta[at + 1] the offset
    if there is one.
    """
    bottom = values[first] if with_offset else f32(0)
    top = values[first]
    for b in range(first, last):
        if with_offset:
            bottom = min(bottom, values[b])
        top = max(top, values[b])
    q_max = (1 << bits) - 1
    offset = stored(bottom, scale_type)
    step = stored(affine_scale(offset, max(top, offset), f32(q_max)), scale_type)
    meta[at] = step
    if with_offset:
        meta[at + 1] = offset
    for b in range(first, last):
        q = clamped_code(f32(f32(values[b] - offset) / step), q_max) if step > f32(0) else i32(0)
        codes[b] = np.uint8(q)
        product = f32(step * f32(q))
        values[b] = f32(product + offset)


@helper
def nest_dynamic(
    values: F32s, first: int, last: int, offset: f32, places: U8s, book: F32s, codes: U8s, meta: F32s, at: int
) -> None:
    """bitsandbytes' double quantization: the distance from the tensor's offset, over its peak, in the dynamic
    8-bit codebook.

    As in bitsandbytes on the CPU, the quotient is rounded to one of 65,536 places from -1 to 1 first; where
    all distances are zero, so are the codes.
    """
    peak = f32(0)
    for b in range(first, last):
        peak = max(peak, abs(f32(values[b] - offset)))
    meta[at] = peak
    inverse = f32(f32(1) / peak) if peak > f32(0) else f32(0)
    for b in range(first, last):
        v = min(max(f32(f32(values[b] - offset) * inverse), f32(-1)), f32(1))
        place = i32(f32(f32(f32(f32(v + f32(1)) * f32(0.5)) * f32(65535)) + f32(0.5)))
        q = places[place] if peak > f32(0) else np.uint8(0)
        codes[b] = q
        product = f32(book[q] * peak)
        values[b] = f32(product + offset)
