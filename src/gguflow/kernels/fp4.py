"""E2M1 on lanes, the 4-bit float of MXFP4 and NVFP4: a sign and eight magnitudes, here doubled: 0, 1, 2, 3,
4, 6, 8, 12.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import bits_float, float_bits, shift_right_signed, splat, to_float, vabs, where
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32x16, I32x16

f32 = np.float32
i32 = np.int32


@kernel
def nearest_codes(v: F32x16, d: f32) -> I32x16:
    """The code whose value, times d, is nearest to each lane of v; ties to the smaller magnitude. d: float32
    scalar, zero gives codes of zero.

    d has few bits, so the midpoints between neighbours are exact, and comparing with them decides as
    comparing ggml's rounded errors does, as long as |v| < 2**24 d (`nearest_codes_by_error` for the rest).
    The three bits of a code are three comparisons, each with the middle of what is left.
    """
    step = d if d > f32(0) else f32(np.inf)
    size = vabs(v)
    bit2 = size > f32(3.5) * step
    bit1 = size > where(bit2, splat(f32(7) * step), f32(1.5) * step)
    above = where(bit1, splat(f32(10) * step), f32(5) * step)
    below = where(bit1, splat(f32(2.5) * step), f32(0.5) * step)
    bit0 = size > where(bit2, above, below)
    code = where(bit2, splat(4), splat(0)) | where(bit1, splat(2), splat(0)) | where(bit0, splat(1), splat(0))
    return with_sign(code, v)


@kernel
def nearest_codes_of_scaled(v: F32x16) -> I32x16:
    """The code nearest to each lane of v, |v| < 16, as above with d = 1, out of the bits of v.

    From 2 on, a magnitude is an exponent and one bit of fraction: adding just under half of the last bit,
    then cutting, rounds with ties down. Below 2 that gives too little, and two comparisons give the code.
    """
    size = vabs(v)
    normal = shift_right_signed(float_bits(size) + (0x1FFFFF - (254 << 22)), 22)
    small = where(size > f32(1.5), splat(2), where(size > f32(0.5), splat(1), splat(0)))
    code = where(normal > small, normal, small)
    return with_sign(where(code < 7, code, 7), v)


@kernel
def nearest_codes_by_error(v: F32x16, d: f32) -> I32x16:
    """As nearest_codes, by ggml's own comparison: the first code with the smallest |value * d - v|, each
    rounded to binary32.
    """
    size = vabs(v)
    best = size
    code = splat(0)
    for candidate in range(1, 8):
        error = vabs(magnitude(splat(candidate)) * d - size)
        code = where(error < best, candidate, code)
        best = where(error < best, error, best)
    return with_sign(code, v)


@kernel
def with_sign(code: I32x16, v: F32x16) -> I32x16:
    """Bit 3 is the sign of v; an encoder never writes a negative zero."""
    return where(code == 0, 0, code | ((float_bits(v) >> 28) & 8))


@kernel
def magnitude(code: I32x16) -> F32x16:
    """Float lanes of the doubled magnitude of codes 0 to 7: from 2 on, the code is the exponent and one bit
    of fraction of a binary32.
    """
    return where(code < 2, to_float(code), bits_float((code << 22) + (127 << 23)))


@kernel
def values(code: I32x16) -> F32x16:
    """Float lanes of the doubled value of codes 0 to 15; code 8 is +0, as in ggml's integer table."""
    size = magnitude(code & 7)
    return where(code > 8, -size, size)
