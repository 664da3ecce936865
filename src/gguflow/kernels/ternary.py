"""What the formats with codes -1, 0, 1 share: the scale is the largest magnitude."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import largest, load, prefetch, splat, vabs, where
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, F32x16, I32x16, Int

f32 = np.float32

AHEAD = 2048  # weights, 8 KiB: what is fetched into the cache while a block is computed


@kernel
def peak(x: F32s, first: Int, n: int) -> f32:
    """The largest magnitude of the n weights (a multiple of 16) from element `first`."""
    top = vabs(load(x, first))
    prefetch(x, first + AHEAD)
    for i in range(16, n, 16):
        prefetch(x, first + i + AHEAD)
        size = vabs(load(x, first + i))
        top = where(size > top, size, top)
    return largest(top)


@kernel
def inverse_scale(d: f32) -> f32:
    """1 / d; zero where d is zero, or so small a denormal that 1 / d is infinite."""
    inverse = f32(1) / d
    return inverse if inverse < f32(np.inf) else f32(0)


@kernel
def ternary_codes(v: F32x16) -> I32x16:
    """Lanes within [-1, 1], about, rounded to the nearest of -1, 0, 1 (ties away from zero), plus one."""
    return where(v >= f32(0.5), splat(2), where(v <= f32(-0.5), splat(0), splat(1)))
