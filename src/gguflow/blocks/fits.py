"""The searches of ggml's K-quant encoders, in NumPy's binary32: what scale (and minimum) should a few weights
have, and which codes follow?

Every product and quotient is rounded to binary32 where the formula says so, and every sum runs from the first
element to the last (`ordered_sum`): another order would give other bytes. The same searches on lanes are in
`gguflow.kernels.fits`.

Source of the algorithms: make_qkx2_quants, make_qkx3_quants, make_qx_quants, make_q3_quants and
make_qp_quants in ggml's ggml-quants.c; in words in spec/blocks/k-quants.md. What arithmetic does beyond the
ordinary (overflow, 0/0, a code that wraps in its byte) is part of them: equal bytes for any finite weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks.base import Floats

f32 = np.float32
Codes = NDArray[np.int32]

ROUNDER = f32(12582912.0)  # 1.5 * 2**23
TINY = f32(1e-15)  # a group whose largest magnitude is below has scale 0; ggml's GROUP_MAX_EPS


class Ladder(NamedTuple):
    """The trial scales of `fit_scale_min`: the range of the weights is divided by n_max + first + step * k,
    for k = 0 ... last.
    """

    first: float
    step: float
    last: int


def ordered_sum(terms: Floats) -> np.float32:
    """0 + terms[0] + terms[1] + ..., rounded after each addition."""
    return f32(np.add.accumulate(np.append(f32(0), terms))[-1])


def nearest_codes(values: Floats, lowest: int, highest: int) -> Codes:
    """ggml's nearest_int of each value (see `bits.nearest_int`), clamped."""
    bits = (np.asarray(values, f32) + ROUNDER).view(np.int32)
    codes: Codes = np.clip((bits & 0x7FFFFF) - 0x400000, lowest, highest)
    return codes


def fit_scale_min(
    x: Floats, w: Floats, n_max: int, ladder: Ladder, absolute: bool = False
) -> tuple[np.float32, np.float32, Codes]:
    """x ~ scale * code - minimum, codes 0 to n_max, minimum >= 0: weighted least squares for each rung of a
    ladder of trial scales; the best is kept.

    absolute: compare trials by the weighted sum of |error| instead of error squared.
    Returns (scale, minimum, codes).
    """
    high = x.max()
    low = min(x.min(), f32(0))
    sum_w, sum_x = ordered_sum(w), ordered_sum(w * x)
    if high == low:
        return f32(0), -low, np.zeros(len(x), np.int32)

    def error(scale: np.float32, offset: np.float32, codes: Codes) -> np.float32:
        difference = scale * codes.astype(f32) + offset - x
        return ordered_sum(w * (np.abs(difference) if absolute else difference * difference))

    inverse = f32(n_max) / (high - low)
    scale = f32(1) / inverse
    best_codes = nearest_codes(inverse * (x - low), 0, n_max)
    best = error(scale, low, best_codes)
    for k in range(ladder.last + 1):
        divisions = f32(ladder.first) + f32(ladder.step) * f32(k) + f32(n_max)
        inverse = divisions / (high - low)  # low is that of the best trial so far
        codes = nearest_codes(inverse * (x - low), 0, n_max)
        weighted = w * codes.astype(f32)
        sum_l, sum_l2, sum_xl = (ordered_sum(weighted * factor) for factor in (f32(1), codes.astype(f32), x))
        determinant = sum_w * sum_l2 - sum_l * sum_l
        if not determinant > 0:
            continue
        trial_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        trial_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        if trial_low > 0:
            trial_scale, trial_low = sum_xl / sum_l2, f32(0)
        trial = error(trial_scale, trial_low, codes)
        if trial < best:
            best, best_codes, scale, low = trial, codes, trial_scale, trial_low
    return scale, -low, best_codes


def fit_symmetric(x: Floats, w: Floats, n_max: int) -> tuple[np.float32, Codes]:
    """x ~ scale * (code - n_max), codes 0 to 2 * n_max - 1: 19 trial scales around the one that maps the
    largest magnitude to -n_max.

    Returns (scale, codes); where all of x is below TINY, 0 and codes that are all 0.
    """
    top = _largest_magnitude(x)
    if abs(top) < TINY:
        return f32(0), np.zeros(len(x), np.int32)

    def trial(inverse: np.float32) -> tuple[Codes, np.float32, np.float32]:
        codes = nearest_codes(inverse * x, -n_max, n_max - 1)
        return (
            codes,
            ordered_sum(w * x * codes.astype(f32)),
            ordered_sum(w * codes.astype(f32) * codes.astype(f32)),
        )

    best_codes, sum_lx, sum_l2 = trial(f32(-n_max) / top)
    scale = sum_lx / sum_l2 if sum_l2 != 0 else f32(0)
    best = scale * sum_lx
    for k in (*range(-9, 0), *range(1, 10)):
        codes, sum_lx, sum_l2 = trial(-(f32(n_max) + f32(0.1) * f32(k)) / top)
        if sum_l2 > 0 and sum_lx * sum_lx > best * sum_l2:
            best_codes, scale = codes, sum_lx / sum_l2
            best = scale * sum_lx
    return scale, best_codes + n_max


def fit_by_descent(x: Floats, n_max: int) -> tuple[np.float32, Codes]:
    """As fit_symmetric with weights x**2, by coordinate descent: from the codes of one scale, change one code
    at a time while that helps.
    """
    top = _largest_magnitude(x)
    if abs(top) < TINY:
        return f32(0), np.zeros(len(x), np.int32)
    codes = nearest_codes(f32(-n_max) / top * x, -n_max, n_max - 1)
    scale = _descend(x, x * x, codes, -n_max, n_max - 1, bits=-1, rest_above=f32(-np.inf))
    return scale, codes + n_max


def fit_positive(x: Floats, w: Floats, n_max: int) -> tuple[np.float32, Codes]:
    """x ~ scale * code, x >= 0, codes 0 to n_max: nine trial scales, then coordinate descent. Fits the
    sub-scales themselves.

    A negative x (rounding can make a sub-scale negative) wraps: its code is kept in eight bits. Returns
    (scale, codes).
    """
    top = f32(0)
    for v in x:
        top = top if top > v else v
    if top < TINY:
        return f32(0), np.zeros(len(x), np.int32)
    inverse = f32(n_max) / top
    trial_scale = f32(1) / inverse
    codes = nearest_codes(inverse * x, -(1 << 23), 1 << 23) & 255
    best = _squared_error(x, w, trial_scale, codes)
    for k in (*range(-4, 0), *range(1, 5)):
        trial_inverse = (f32(0.1) * f32(k) + f32(n_max)) / top
        error = _squared_error(
            x, w, f32(1) / trial_inverse, nearest_codes(trial_inverse * x, -(1 << 23), n_max)
        )
        if error < best:
            best, inverse = error, trial_inverse
    codes = nearest_codes(inverse * x, -(1 << 23), n_max)
    scale = _descend(x, w, codes, -(1 << 23), n_max, bits=255, rest_above=f32(0))
    return scale, codes


def _largest_magnitude(x: Floats) -> np.float32:
    """The element of largest magnitude, with its sign; the first of several. NaN is passed over."""
    top = f32(0)
    for v in x:
        if abs(v) > abs(top):
            top = v
    return top


def _squared_error(x: Floats, w: Floats, scale: np.float32, codes: Codes) -> np.float32:
    difference = x - scale * codes.astype(f32)
    return ordered_sum(w * difference * difference)


def _descend(
    x: Floats, w: Floats, codes: Codes, lowest: int, highest: int, bits: int, rest_above: np.float32
) -> np.float32:
    """Up to five rounds over the codes: each takes the value that is best while the others stay, if the fit
    improves. Returns the scale.

    codes: changed in place.
    bits: what of a code is kept (ggml holds it in a byte).
    rest_above: a code is left alone unless the others' sum of w * code**2 is above this.
    """
    values = codes.astype(f32)
    sum_lx, sum_l2 = ordered_sum(w * x * values), ordered_sum(w * values * values)
    codes &= bits
    for _ in range(5):
        changed = False
        for i, (v, u) in enumerate(zip(x, w, strict=True)):
            code = f32(codes[i])
            rest_lx, rest_l2 = sum_lx - u * v * code, sum_l2 - u * code * code
            if not (rest_lx > 0 and rest_l2 > rest_above):
                continue
            new = int(nearest_codes(v * rest_l2 / rest_lx, lowest, highest))
            if new == codes[i]:
                continue
            new_lx, new_l2 = rest_lx + u * v * f32(new), rest_l2 + u * f32(new) * f32(new)
            if new_l2 > 0 and new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2:
                codes[i], sum_lx, sum_l2, changed = new & bits, new_lx, new_l2, True
        if not changed:
            break
    return sum_lx / sum_l2 if sum_l2 > 0 else f32(0)
