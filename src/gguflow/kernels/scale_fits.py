"""Real-valued steps and offsets for sub-blocks of weights, by weighted least squares, sixteen sub-blocks at a
time; what `scale_search` begins with. The scalar twin is `gguflow.fidelity.reference_search`.

x, w: float32 lanes, the weights and how much their errors count; sub-blocks are weights first ... first + n -
1 of their blocks. Sums run from the first weight to the last.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import load, mask_bits, splat, where
from gguflow.kernels.level_grids import ONE_OFFSET, Grid, inverse_of, level
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, F32x16

f32 = np.float32

N_REFITS = 3
"""How often a trial is rounded and solved again."""


@helper
def error(x: F32s, w: F32s, first: int, n: int, step: F32x16, offset: F32x16, grid: Grid) -> F32x16:
    """The weighted squared error of a sub-block whose codes follow from step and offset."""
    inverse = inverse_of(step)
    total = splat(f32(0))
    for i in range(first, first + n):
        v = load(x, 16 * i)
        difference = v - (step * level((v + offset) * inverse, grid) - offset)
        total = total + load(w, 16 * i) * difference * difference
    return total


@helper
def level_sums(
    x: F32s, w: F32s, first: int, n: int, inverse: F32x16, offset: F32x16, grid: Grid
) -> tuple[F32x16, F32x16, F32x16]:
    """For the levels q of (x + offset) * inverse: the sums of w q, w q q and w q x."""
    q_sum = qq_sum = qx_sum = splat(f32(0))
    for i in range(first, first + n):
        v = load(x, 16 * i)
        q = level((v + offset) * inverse, grid)
        weighted = load(w, 16 * i) * q
        q_sum = q_sum + weighted
        qq_sum = qq_sum + weighted * q
        qx_sum = qx_sum + weighted * v
    return q_sum, qq_sum, qx_sum


@helper
def weight_sums(x: F32s, w: F32s, first: int, n: int) -> tuple[F32x16, F32x16, F32x16]:
    """The sums of w, w x and w x x."""
    w_sum = x_sum = xx_sum = splat(f32(0))
    for i in range(first, first + n):
        v = load(x, 16 * i)
        u = load(w, 16 * i)
        w_sum = w_sum + u
        x_sum = x_sum + u * v
        xx_sum = xx_sum + u * v * v
    return w_sum, x_sum, xx_sum


@helper
def extremes(x: F32s, first: int, n: int) -> tuple[F32x16, F32x16]:
    """The smallest and the largest weight of a sub-block."""
    low = high = load(x, 16 * first)
    for i in range(first + 1, first + n):
        v = load(x, 16 * i)
        low = where(v < low, v, low)
        high = where(v > high, v, high)
    return low, high


@helper
def fit_step(x: F32s, w: F32s, first: int, n: int, sign: f32, grid: Grid) -> tuple[F32x16, F32x16]:
    """The best step of this sign without offset, of all rungs of the ladder, and the weighted square that it
    explains; both 0 where there is none.
    """
    low, high = extremes(x, first, n)
    zero = splat(f32(0))
    top = high if sign > f32(0) else -low
    bottom = -low if sign > f32(0) else high
    top = where(top > zero, top, zero) / grid.highest
    bottom = where(bottom > zero, bottom, zero) / -grid.lowest
    base = where(top > bottom, top, bottom)
    best = best_step = zero
    for k in range(grid.ladder.size):
        inverse = sign / base * grid.ladder[k]
        active = base > zero
        for refit in range(N_REFITS):
            _, qq_sum, qx_sum = level_sums(x, w, first, n, inverse, zero, grid)
            active = active & (qq_sum > zero) & (qx_sum * inverse > zero)
            step = qx_sum / qq_sum
            gain = qx_sum * step
            better = active & (gain > best)
            best = where(better, gain, best)
            best_step = where(better, step, best_step)
            if refit > 0:
                active = better
            if mask_bits(active) == 0:
                break
            inverse = where(active, qq_sum / qx_sum, inverse)
    return best, best_step


@helper
def fit_range(x: F32s, w: F32s, first: int, n: int, grid: Grid) -> tuple[F32x16, F32x16]:
    """The best positive step with an offset, of all rungs of the ladder; step 0 where all weights are equal.
    The offset of formats with sub-blocks is not negative.
    """
    zero = splat(f32(0))
    low, high = extremes(x, first, n)
    if grid.offset != ONE_OFFSET:
        low = where(low < zero, low, zero)
    w_sum, x_sum, xx_sum = weight_sums(x, w, first, n)
    width = high - low
    best = splat(f32(np.inf))
    best_step = zero
    best_offset = -low
    for k in range(grid.ladder.size):
        inverse = grid.ladder[k] / width
        offset = -low
        active = width > zero
        for refit in range(N_REFITS):
            q_sum, qq_sum, qx_sum = level_sums(x, w, first, n, inverse, offset, grid)
            determinant = w_sum * qq_sum - q_sum * q_sum
            active = active & (determinant > zero)
            step = (w_sum * qx_sum - x_sum * q_sum) / determinant
            offset = (q_sum * qx_sum - qq_sum * x_sum) / determinant
            if grid.offset != ONE_OFFSET:
                step = where(offset < zero, qx_sum / qq_sum, step)
                offset = where(offset < zero, zero, offset)
            active = active & (step > zero)
            crossed = step * qx_sum - offset * x_sum + step * offset * q_sum
            found = xx_sum + step * step * qq_sum + offset * offset * w_sum - f32(2) * crossed
            better = active & (found < best)
            best = where(better, found, best)
            best_step = where(better, step, best_step)
            best_offset = where(better, offset, best_offset)
            if refit > 0:
                active = better
            if mask_bits(active) == 0:
                break
            inverse = where(active, f32(1) / step, inverse)
    return best_step, best_offset
