"""The searches of `gguflow.blocks.fits` on lanes: 16 groups of weights at once, each lane in the scalar order
of operations.

Arrays of lanes are flat float32: vector i is at 16 * i. A group's state is a vector; its n weights are n
vectors. The searches take finite weights; what becomes of overflow on the way is ggml's, to the bit. A lane
that a scalar program would have left early runs on, and its results are masked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels.bits import nearest_int
from gguflow.kernels.lanes import load, mask_bits, splat, store, to_float, vabs, where
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, F32x16, I32x16, Int, Mask16

f32 = np.float32

TINY = f32(1e-15)
ROUNDER = f32(12582912.0)  # 1.5 * 2**23, as in bits.nearest_int
EVERY_LANE = 0xFFFF
UNBOUNDED = -(1 << 23)  # below every value of nearest_int


@helper
def clamp(q: I32x16, lowest: Int, highest: Int) -> I32x16:
    """int32 lanes within [lowest, highest]."""
    q = where(q > lowest, q, lowest)
    return where(q < highest, q, highest)


@helper
def code(v: F32x16, lowest: int, highest: int) -> F32x16:
    """nearest_int(v), clamped, as float lanes."""
    return to_float(clamp(nearest_int(v), lowest, highest))


@helper
def code_of_small(v: F32x16, lowest: int, highest: int) -> F32x16:
    """As `code` for |v| < 2**22, in four instructions instead of six."""
    q = v + ROUNDER - ROUNDER
    q = where(q > f32(lowest), q, f32(lowest))
    return where(q < f32(highest), q, f32(highest))


class Extent(NamedTuple):
    """Of a group of weights, as lanes.

    bottom, high: the extremes.
    sum_w, sum_x: the sums of w and of w * x.
    alive: whether there is anything to fit.
    """

    bottom: F32x16
    high: F32x16
    sum_w: F32x16
    sum_x: F32x16
    alive: Mask16


class Fit(NamedTuple):
    """The best trial so far, as lanes.

    error: the weighted error, which is the least.
    scale, low: x is about scale * code + low.
    inverse, base: the codes are nearest_int(inverse * (x - base)).
    """

    error: F32x16
    scale: F32x16
    low: F32x16
    inverse: F32x16
    base: F32x16


@helper
def fit_scale_min(
    x: F32s, w: F32s, codes: F32s, n: int, n_max: int, first: f32, step: f32, last: int, absolute: bool
) -> tuple[Fit, Fit]:
    """fits.fit_scale_min for twice 16 groups of n weights: a trial waits for the one before it, so two chains
    of trials share the processor.

    x, w: float32[2 * n * 16], weights and how much their errors count.
    codes: scratch of that size.
    n_max: the highest code.
    first, step, last: the ladder.
    absolute: errors count by their magnitude, not by their square.
    Returns two Fits, whose `low` is -minimum.
    """
    extent_a = measure(x, w, 0, n)
    extent_b = measure(x, w, 16 * n, n)
    fit_a = empty_fit(extent_a)
    fit_b = empty_fit(extent_b)
    for k in range(-1, last + 1):
        divisions = f32(n_max) if k < 0 else first + step * f32(k) + f32(n_max)
        inverse_a = divisions / span(extent_a, fit_a)
        inverse_b = divisions / span(extent_b, fit_b)
        if is_small(extent_a, fit_a, inverse_a) and is_small(extent_b, fit_b, inverse_b):
            sums_a, sums_b = try_small_codes(
                x, w, codes, n, n_max, inverse_a, fit_a.low, inverse_b, fit_b.low
            )
        else:
            sums_a, sums_b = try_codes(x, w, codes, n, n_max, inverse_a, fit_a.low, inverse_b, fit_b.low)
        if k < 0:  # the scale that the range suggests, as it is
            scale_a, low_a, valid_a = f32(1) / inverse_a, fit_a.low, extent_a.alive
            scale_b, low_b, valid_b = f32(1) / inverse_b, fit_b.low, extent_b.alive
        else:
            scale_a, low_a, valid_a = solve(extent_a, sums_a)
            scale_b, low_b, valid_b = solve(extent_b, sums_b)
        error_a, error_b = weighted_errors(x, w, codes, n, scale_a, low_a, scale_b, low_b, absolute)
        if k >= 0:
            valid_a = valid_a & (error_a < fit_a.error)
            valid_b = valid_b & (error_b < fit_b.error)
        fit_a = keep_better(fit_a, valid_a, Fit(error_a, scale_a, low_a, inverse_a, fit_a.low))
        fit_b = keep_better(fit_b, valid_b, Fit(error_b, scale_b, low_b, inverse_b, fit_b.low))
    return fit_a, fit_b


@helper
def measure(x: F32s, w: F32s, at: int, n: int) -> Extent:
    """The Extent of the group at element `at`."""
    high = load(x, at)
    bottom = high
    sum_w = load(w, at)
    sum_x = sum_w * high
    for i in range(1, n):
        v = load(x, at + 16 * i)
        u = load(w, at + 16 * i)
        bottom = where(v < bottom, v, bottom)
        high = where(v > high, v, high)
        sum_w = sum_w + u
        sum_x = sum_x + u * v
    return Extent(bottom, high, sum_w, sum_x, (high > bottom) | (high > f32(0)))


@helper
def empty_fit(extent: Extent) -> Fit:
    """No trial yet: what the first one starts from, and the result where there is nothing to fit."""
    low = where(extent.bottom > f32(0), f32(0), extent.bottom)
    zero = splat(f32(0))
    return Fit(zero, zero, low, zero, low)


@helper
def span(extent: Extent, fit: Fit) -> F32x16:
    """The range that the codes divide; 1 where there is nothing to fit."""
    return where(extent.alive, extent.high - fit.low, f32(1))


@helper
def is_small(extent: Extent, fit: Fit, inverse: F32x16) -> bool:
    """Whether code_of_small serves for all weights: inverse * (x - low) is monotonic in x, so its ends
    tell.
    """
    upper = vabs(inverse * (extent.high - fit.low)) < f32(1 << 22)
    lower = vabs(inverse * (extent.bottom - fit.low)) < f32(1 << 22)
    return mask_bits(upper & lower) == EVERY_LANE


@helper
def try_small_codes(
    x: F32s,
    w: F32s,
    codes: F32s,
    n: int,
    n_max: int,
    inverse_a: F32x16,
    low_a: F32x16,
    inverse_b: F32x16,
    low_b: F32x16,
) -> tuple[tuple[F32x16, F32x16, F32x16], tuple[F32x16, F32x16, F32x16]]:
    """The codes of a trial, and their sums for `solve`."""
    zero = splat(f32(0))
    sums_a = zero, zero, zero
    sums_b = zero, zero, zero
    for i in range(0, n * 16, 16):
        sums_a = add_code(x, w, codes, i, code_of_small(inverse_a * (load(x, i) - low_a), 0, n_max), sums_a)
        j = i + n * 16
        sums_b = add_code(x, w, codes, j, code_of_small(inverse_b * (load(x, j) - low_b), 0, n_max), sums_b)
    return sums_a, sums_b


@helper
def try_codes(
    x: F32s,
    w: F32s,
    codes: F32s,
    n: int,
    n_max: int,
    inverse_a: F32x16,
    low_a: F32x16,
    inverse_b: F32x16,
    low_b: F32x16,
) -> tuple[tuple[F32x16, F32x16, F32x16], tuple[F32x16, F32x16, F32x16]]:
    """As try_small_codes, for all that binary32 can hold."""
    zero = splat(f32(0))
    sums_a = zero, zero, zero
    sums_b = zero, zero, zero
    for i in range(0, n * 16, 16):
        sums_a = add_code(x, w, codes, i, code(inverse_a * (load(x, i) - low_a), 0, n_max), sums_a)
        j = i + n * 16
        sums_b = add_code(x, w, codes, j, code(inverse_b * (load(x, j) - low_b), 0, n_max), sums_b)
    return sums_a, sums_b


@helper
def add_code(
    x: F32s, w: F32s, codes: F32s, i: int, q: F32x16, sums: tuple[F32x16, F32x16, F32x16]
) -> tuple[F32x16, F32x16, F32x16]:
    """Store the code of a weight, and add it to the sums of w * code, w * code**2 and w * code * x."""
    sum_l, sum_l2, sum_xl = sums
    store(codes, i, q)
    uq = load(w, i) * q
    return sum_l + uq, sum_l2 + uq * q, sum_xl + uq * load(x, i)


@helper
def solve(extent: Extent, sums: tuple[F32x16, F32x16, F32x16]) -> tuple[F32x16, F32x16, Mask16]:
    """Least squares for given codes: scale, low <= 0, and where there is a solution."""
    sum_l, sum_l2, sum_xl = sums
    determinant = extent.sum_w * sum_l2 - sum_l * sum_l
    low = (sum_l2 * extent.sum_x - sum_l * sum_xl) / determinant
    above = low > f32(0)
    numerator = where(above, sum_xl, extent.sum_w * sum_xl - extent.sum_x * sum_l)
    scale = numerator / where(above, sum_l2, determinant)
    return scale, where(above, f32(0), low), extent.alive & (determinant > f32(0))


@helper
def weighted_errors(
    x: F32s,
    w: F32s,
    codes: F32s,
    n: int,
    scale_a: F32x16,
    low_a: F32x16,
    scale_b: F32x16,
    low_b: F32x16,
    absolute: bool,
) -> tuple[F32x16, F32x16]:
    """Sums of w * |scale * code + low - x|, squared unless `absolute`."""
    error_a = splat(f32(0))
    error_b = splat(f32(0))
    for i in range(0, n * 16, 16):
        j = i + n * 16
        difference_a = scale_a * load(codes, i) + low_a - load(x, i)
        difference_b = scale_b * load(codes, j) + low_b - load(x, j)
        if absolute:
            error_a = error_a + load(w, i) * vabs(difference_a)
            error_b = error_b + load(w, j) * vabs(difference_b)
        else:
            error_a = error_a + load(w, i) * (difference_a * difference_a)
            error_b = error_b + load(w, j) * (difference_b * difference_b)
    return error_a, error_b


@helper
def keep_better(fit: Fit, better: Mask16, trial: Fit) -> Fit:
    """Per lane: the trial where `better` is set, else the fit."""
    return Fit(
        where(better, trial.error, fit.error),
        where(better, trial.scale, fit.scale),
        where(better, trial.low, fit.low),
        where(better, trial.inverse, fit.inverse),
        where(better, trial.base, fit.base),
    )


@helper
def largest_magnitude(x: F32s, n: int) -> F32x16:
    """The element of largest magnitude, with its sign; the first of several."""
    top = splat(f32(0))
    for i in range(n):
        v = load(x, 16 * i)
        top = where(vabs(v) > vabs(top), v, top)
    return top


@helper
def fit_symmetric(x: F32s, w: F32s, wx: F32s, n: int, n_max: int, finite: bool) -> tuple[F32x16, F32x16]:
    """fits.fit_symmetric for 16 groups of n weights.

    x, w: float32[n * 16], weights and how much their errors count.
    wx: scratch of that size.
    n_max: codes are from -n_max to n_max - 1.
    finite: no NaN or infinity in x.
    Returns lanes (scale, inverse): the codes are nearest_int(inverse * x) in [-n_max, n_max - 1], plus n_max;
    where inverse is 0, all 0.
    """
    for i in range(n):
        store(wx, 16 * i, load(w, 16 * i) * load(x, 16 * i))
    top = largest_magnitude(x, n)
    inverse = f32(-n_max) / top
    sum_lx, sum_l2 = symmetric_sums(x, w, wx, n, n_max, inverse, finite)
    scale = where(sum_l2 != f32(0), sum_lx / sum_l2, f32(0))
    best = scale * sum_lx
    best_inverse = inverse
    for k in range(-9, 10):
        if k == 0:
            continue
        inverse = -(f32(n_max) + f32(0.1) * f32(k)) / top
        sum_lx, sum_l2 = symmetric_sums(x, w, wx, n, n_max, inverse, finite)
        better = (sum_l2 > f32(0)) & (sum_lx * sum_lx > best * sum_l2)
        scale = where(better, sum_lx / sum_l2, scale)
        best = where(better, scale * sum_lx, best)
        best_inverse = where(better, inverse, best_inverse)
    alive = ~(vabs(top) < TINY)
    return where(alive, scale, f32(0)), where(alive, best_inverse, f32(0))


@helper
def symmetric_sums(
    x: F32s, w: F32s, wx: F32s, n: int, n_max: int, inverse: F32x16, finite: bool
) -> tuple[F32x16, F32x16]:
    """Sums of w * x * code and w * code**2. No x is larger than the one that `inverse` maps to about n_max,
    so finite ones give small codes.
    """
    sum_lx = splat(f32(0))
    sum_l2 = splat(f32(0))
    for i in range(n):
        v = inverse * load(x, 16 * i)
        q = code_of_small(v, -n_max, n_max - 1) if finite else code(v, -n_max, n_max - 1)
        sum_lx = sum_lx + load(wx, 16 * i) * q
        sum_l2 = sum_l2 + load(w, 16 * i) * q * q
    return sum_lx, sum_l2


@helper
def fit_by_descent(x: F32s, w: F32s, codes: F32s, n: int, n_max: int) -> F32x16:
    """fits.fit_by_descent for 16 groups of n weights; returns the lanes of scales.

    x, w: float32[n * 16], w = x**2.
    codes: float32[n * 16], written: 0 to 2 * n_max - 1.
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


@helper
def fit_positive(x: F32s, w: F32s, codes: F32s, n: int, n_max: int) -> F32x16:
    """fits.fit_positive for 16 groups of n weights; returns the lanes of scales.

    x, w: float32[n * 16], weights and how much their errors count.
    codes: float32[n * 16], written: 0 to 255.
    """
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


@helper
def squared_error(x: F32s, w: F32s, codes: F32s, n: int, scale: F32x16) -> F32x16:
    """Sum of w * (x - scale * code)**2."""
    error = splat(f32(0))
    for i in range(n):
        difference = load(x, 16 * i) - scale * load(codes, 16 * i)
        error = error + load(w, 16 * i) * difference * difference
    return error


@helper
def descend(
    x: F32s, w: F32s, codes: F32s, n: int, lowest: int, highest: int, bits: int, rest_above: f32
) -> F32x16:
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
            # mostly so, and a predicted branch lets the next weight start before this division ends
            if mask_bits(candidate) == 0:
                continue
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
