"""The searches of `gguflow.blocks.fits` on lanes: 16 groups of weights at once, each lane in the scalar order of operations.

Arrays of lanes are flat float32: vector i is at 16 * i. A group's state is a vector; its n weights are n vectors. The searches take finite weights;
what becomes of overflow on the way is ggml's, to the bit. A lane that a scalar program would have left early runs on, and its results are masked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import nearest_int
from gguflow.kernels.policy import kernel
from gguflow.lanes import load, mask_bits, splat, store, to_float, vabs, where

f32 = np.float32
i32 = np.int32

TINY = f32(1e-15)
EVERY_LANE = 0xFFFF
UNBOUNDED = -(1 << 23)  # below every value of nearest_int


@kernel
def code(v: Any, lowest: Any, highest: Any) -> Any:
    """nearest_int(v), clamped, as float lanes."""
    return to_float(clamp(nearest_int(v), lowest, highest))


@kernel
def clamp(q: Any, lowest: Any, highest: Any) -> Any:
    """int32 lanes within [lowest, highest]."""
    q = where(q > lowest, q, lowest)
    return where(q < highest, q, highest)


@kernel
def fit_scale_min(x: Any, w: Any, codes: Any, n: int, n_max: int, first: Any, step: Any, last: int, absolute: bool) -> Any:
    """fits.fit_scale_min for 16 groups of n weights.

    x, w: float32[n * 16]. codes: scratch, float32[n * 16]. first, step, last: the ladder.
    Returns lanes (scale, low, inverse, base); low is -minimum, the codes of the best trial are nearest_int(inverse * (x - base)) in [0, n_max].
    """
    zero = splat(f32(0))
    top_code = f32(n_max)
    high = load(x, 0)
    bottom = high
    sum_w = load(w, 0)
    sum_x = sum_w * high
    for i in range(1, n):
        v = load(x, 16 * i)
        u = load(w, 16 * i)
        bottom = where(v < bottom, v, bottom)
        high = where(v > high, v, high)
        sum_w = sum_w + u
        sum_x = sum_x + u * v
    low = where(bottom > f32(0), f32(0), bottom)
    alive = high > low
    inverse = top_code / (high - low)
    best_inverse = inverse
    base = low
    scale = f32(1) / inverse
    for i in range(n):
        store(codes, 16 * i, code(inverse * (load(x, 16 * i) - low), 0, n_max))
    best = weighted_error(x, w, codes, n, scale, low, absolute)
    for k in range(last + 1):
        inverse = (first + step * f32(k) + top_code) / (high - low)
        sum_l = zero
        sum_l2 = zero
        sum_xl = zero
        for i in range(n):
            v = load(x, 16 * i)
            q = code(inverse * (v - low), 0, n_max)
            store(codes, 16 * i, q)
            uq = load(w, 16 * i) * q
            sum_l = sum_l + uq
            sum_l2 = sum_l2 + uq * q
            sum_xl = sum_xl + uq * v
        determinant = sum_w * sum_l2 - sum_l * sum_l
        trial_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = trial_low > f32(0)
        trial_low = where(above, f32(0), trial_low)
        trial_scale = where(above, sum_xl, sum_w * sum_xl - sum_x * sum_l) / where(above, sum_l2, determinant)
        error = weighted_error(x, w, codes, n, trial_scale, trial_low, absolute)
        better = (determinant > f32(0)) & (error < best)
        best = where(better, error, best)
        scale = where(better, trial_scale, scale)
        best_inverse = where(better, inverse, best_inverse)
        base = where(better, low, base)
        low = where(better, trial_low, low)
    return where(alive, scale, f32(0)), low, where(alive, best_inverse, f32(0)), base


@kernel
def weighted_error(x: Any, w: Any, codes: Any, n: int, scale: Any, low: Any, absolute: bool) -> Any:
    """Sum of w * |scale * code + low - x|, squared unless `absolute`."""
    error = splat(f32(0))
    for i in range(n):
        difference = scale * load(codes, 16 * i) + low - load(x, 16 * i)
        if absolute:
            difference = vabs(difference)
        else:
            difference = difference * difference
        error = error + load(w, 16 * i) * difference
    return error


@kernel
def largest_magnitude(x: Any, n: int) -> Any:
    """The element of largest magnitude, with its sign; the first of several."""
    top = splat(f32(0))
    for i in range(n):
        v = load(x, 16 * i)
        top = where(vabs(v) > vabs(top), v, top)
    return top


@kernel
def fit_symmetric(x: Any, w: Any, wx: Any, n: int, n_max: int) -> Any:
    """fits.fit_symmetric for 16 groups of n weights. x, w: float32[n * 16]. wx: scratch, float32[n * 16].

    Returns lanes (scale, inverse): the codes are nearest_int(inverse * x) in [-n_max, n_max - 1], plus n_max; where inverse is 0, all 0.
    """
    for i in range(n):
        store(wx, 16 * i, load(w, 16 * i) * load(x, 16 * i))
    top = largest_magnitude(x, n)
    inverse = f32(-n_max) / top
    sum_lx, sum_l2 = symmetric_sums(x, w, wx, n, n_max, inverse)
    scale = where(sum_l2 != f32(0), sum_lx / sum_l2, f32(0))
    best = scale * sum_lx
    best_inverse = inverse
    for k in range(-9, 10):
        if k == 0:
            continue
        inverse = -(f32(n_max) + f32(0.1) * f32(k)) / top
        sum_lx, sum_l2 = symmetric_sums(x, w, wx, n, n_max, inverse)
        better = (sum_l2 > f32(0)) & (sum_lx * sum_lx > best * sum_l2)
        scale = where(better, sum_lx / sum_l2, scale)
        best = where(better, scale * sum_lx, best)
        best_inverse = where(better, inverse, best_inverse)
    alive = ~(vabs(top) < TINY)
    return where(alive, scale, f32(0)), where(alive, best_inverse, f32(0))


@kernel
def symmetric_sums(x: Any, w: Any, wx: Any, n: int, n_max: int, inverse: Any) -> Any:
    """Sums of w * x * code and w * code**2."""
    sum_lx = splat(f32(0))
    sum_l2 = splat(f32(0))
    for i in range(n):
        q = code(inverse * load(x, 16 * i), -n_max, n_max - 1)
        sum_lx = sum_lx + load(wx, 16 * i) * q
        sum_l2 = sum_l2 + load(w, 16 * i) * q * q
    return sum_lx, sum_l2


@kernel
def fit_by_descent(x: Any, w: Any, codes: Any, n: int, n_max: int) -> Any:
    """fits.fit_by_descent for 16 groups of n weights. x, w: float32[n * 16], w = x**2.

    Writes codes (0 to 2 * n_max - 1, float32[n * 16]), returns the lanes of scales.
    """
    top = largest_magnitude(x, n)
    inverse = f32(-n_max) / top
    for i in range(n):
        store(codes, 16 * i, code(inverse * load(x, 16 * i), -n_max, n_max - 1))
    scale = descend(x, w, codes, n, -n_max, n_max - 1, -1, f32(-np.inf))
    alive = ~(vabs(top) < TINY)
    for i in range(n):
        store(codes, 16 * i, where(alive, load(codes, 16 * i) + f32(n_max), f32(0)))
    return where(alive, scale, f32(0))


@kernel
def fit_positive(x: Any, w: Any, codes: Any, n: int, n_max: int) -> Any:
    """fits.fit_positive for 16 groups of n. x, w: float32[n * 16]. Writes codes (0 to 255), returns the lanes of scales."""
    top = splat(f32(0))
    for i in range(n):
        v = load(x, 16 * i)
        top = where(top > v, top, v)
    inverse = f32(n_max) / top
    for i in range(n):
        store(codes, 16 * i, to_float(nearest_int(inverse * load(x, 16 * i)) & 255))
    best = squared_error(x, w, codes, n, f32(1) / inverse)
    for k in range(-4, 5):
        if k == 0:
            continue
        trial_inverse = (f32(0.1) * f32(k) + f32(n_max)) / top
        for i in range(n):
            store(codes, 16 * i, code(trial_inverse * load(x, 16 * i), UNBOUNDED, n_max))
        error = squared_error(x, w, codes, n, f32(1) / trial_inverse)
        better = error < best
        best = where(better, error, best)
        inverse = where(better, trial_inverse, inverse)
    for i in range(n):
        store(codes, 16 * i, code(inverse * load(x, 16 * i), UNBOUNDED, n_max))
    scale = descend(x, w, codes, n, UNBOUNDED, n_max, 255, f32(0))
    alive = ~(top < TINY)
    for i in range(n):
        store(codes, 16 * i, where(alive, load(codes, 16 * i), f32(0)))
    return where(alive, scale, f32(0))


@kernel
def squared_error(x: Any, w: Any, codes: Any, n: int, scale: Any) -> Any:
    """Sum of w * (x - scale * code)**2."""
    error = splat(f32(0))
    for i in range(n):
        difference = load(x, 16 * i) - scale * load(codes, 16 * i)
        error = error + load(w, 16 * i) * difference * difference
    return error


@kernel
def descend(x: Any, w: Any, codes: Any, n: int, lowest: int, highest: int, bits: int, rest_above: Any) -> Any:
    """fits._descend for 16 groups: changes codes, returns the lanes of scales.

    A lane that has converged stays as it is in later rounds, so all lanes run until none changes.
    """
    sum_lx = splat(f32(0))
    sum_l2 = splat(f32(0))
    for i in range(n):
        u = load(w, 16 * i)
        q = load(codes, 16 * i)
        sum_lx = sum_lx + u * load(x, 16 * i) * q
        sum_l2 = sum_l2 + u * q * q
        if bits > 0:
            store(codes, 16 * i, to_float(nearest_int(q) & bits))
    for _ in range(5):
        changed = 0
        for i in range(n):
            v = load(x, 16 * i)
            u = load(w, 16 * i)
            q = load(codes, 16 * i)
            rest_lx = sum_lx - u * v * q
            rest_l2 = sum_l2 - u * q * q
            number = clamp(nearest_int(v * rest_l2 / rest_lx), lowest, highest)
            new = to_float(number)
            candidate = (rest_lx > f32(0)) & (rest_l2 > rest_above) & (new != q)
            new_lx = rest_lx + u * v * new
            new_l2 = rest_l2 + u * new * new
            better = candidate & (new_l2 > f32(0)) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
            store(codes, 16 * i, where(better, to_float(number & bits), q))
            sum_lx = where(better, new_lx, sum_lx)
            sum_l2 = where(better, new_l2, sum_l2)
            changed |= mask_bits(better)
        if changed == 0:
            break
    return where(sum_l2 > f32(0), sum_lx / sum_l2, f32(0))
