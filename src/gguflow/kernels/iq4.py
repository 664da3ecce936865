"""What IQ4_NL and IQ4_XS share on lanes; the twin of blocks/iq4.py. Arrays of lanes are flat float32: weight
i of 16 groups is at 16 * i.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.fits import TINY, largest_magnitude
from gguflow.kernels.lanes import (
    load,
    lookup16,
    splat,
    store,
    store_u8,
    to_float,
    to_int,
    transpose16,
    vabs,
    vsqrt,
    where,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, F32x16, I32x16, U8s

f32 = np.float32
i32 = np.int32

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], f32)
"""Those of blocks/iq4.py, compiled into the kernels."""
_LIMITS = np.append((VALUES[:-1] + VALUES[1:]) / f32(2), f32(np.nan))
"""Midpoints; nothing is above the last code."""
_SLOPE = f32(0.0695)
_OFFSET = f32(7.88)


@kernel
def nearest_values(v: F32x16) -> I32x16:
    """blocks.iq4.nearest_values on lanes.

    A straight line through the sixteen values misses a code by no more than one, and always from below: at
    midpoint k it is in (k, k + 1). One comparison with the midpoint that follows settles it. NaN gives 15.
    """
    guess = v * _SLOPE + _OFFSET
    guess = where(guess < f32(15), guess, f32(15))
    guess = where(guess > f32(0), guess, f32(0))
    code = to_int(guess)
    return where(v >= lookup16(load(_LIMITS, 0), code), code + 1, code)


@kernel
def error_weights(x: F32x16, importance: F32x16, total_square: F32x16, two_over_n: f32) -> F32x16:
    """importance * sqrt(2 * mean square + x**2): total_square is the sum of squares over the n weights of the
    block.
    """
    return importance * vsqrt(total_square * two_over_n + x * x)


@kernel
def fit_scale(x: F32s, w: F32s) -> F32x16:
    """blocks.iq4.fit_scale for 16 groups. x, w: float32[32 * 16]. Returns the lanes of scales."""
    peak = largest_magnitude(x, 32)
    sum_qx, sum_q2 = trial_sums(x, w, f32(1) / (-peak / f32(-127)))
    d = where(sum_q2 > f32(0), sum_qx / sum_q2, f32(0))
    best = d * sum_qx
    for k in range(-7, 8):
        sum_qx, sum_q2 = trial_sums(x, w, f32(k - 127) / peak)
        better = (sum_q2 > f32(0)) & (sum_qx * sum_qx > best * sum_q2)
        d = where(better, sum_qx / sum_q2, d)
        best = where(better, d * sum_qx, best)
    return where(vabs(peak) < TINY, f32(0), d)


@kernel
def trial_sums(x: F32s, w: F32s, inverse: F32x16) -> tuple[F32x16, F32x16]:
    """Sums of w * value * x and w * value**2 for the values nearest to inverse * x."""
    values = load(VALUES, 0)
    sum_qx = splat(f32(0))
    sum_q2 = splat(f32(0))
    for i in range(32):
        v = load(x, 16 * i)
        value = lookup16(values, nearest_values(inverse * v))
        weighted = load(w, 16 * i) * value
        sum_qx = sum_qx + weighted * v
        sum_q2 = sum_q2 + weighted * value
    return sum_qx, sum_q2


@kernel
def inverse_or_zero(scale: F32x16) -> F32x16:
    """1 / scale, and 0 for 0."""
    return where(scale != f32(0), f32(1) / scale, f32(0))


@kernel
def store_codes(
    x: F32s, inverse: F32x16, packed: F32s, out: U8s, first: int, stride: int, count: int
) -> None:
    """Write the codes of inverse * x, 16 bytes for each of the first `count` of 16 groups: group k from byte
    first + k * stride of out.

    packed: scratch, float32[32 * 16].
    """
    for j in range(16):
        low = nearest_values(inverse * load(x, 16 * j))
        high = nearest_values(inverse * load(x, 16 * (j + 16)))
        store(packed, 16 * j, to_float(low | (high << 4)))
    transpose16(packed, 0, 16, packed, 16)
    for k in range(count):
        store_u8(out, first + k * stride, to_int(load(packed, 16 * (16 + k))))
