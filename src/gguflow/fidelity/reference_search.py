"""The search for scales, one block at a time, in NumPy's binary32: what the kernels of `scale_fits` and
`scale_search` are held to, to the bit.

x, w: float32[n], the weights of a block or sub-block, and how much their errors count. Sums run from the
first weight to the last; `errstate` is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gguflow.arrays import Floats
from gguflow.blocks import iq4
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import Codes, ordered_sum
from gguflow.fidelity.grids import Grid
from gguflow.fidelity.packing import Scaled

f32 = np.float32
Number = np.float32

_E2M1_LIMITS = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], f32)
"""Middles between the doubled magnitudes of E2M1; they belong to the smaller one."""
ENOUGH = f32(0.9999)


class Fit(NamedTuple):
    """d and dmin of a block, and the integer scales and mins of its sub-blocks."""

    d: Number
    dmin: Number
    scales: list[int]
    mins: list[int]


class Sums(NamedTuple):
    """Over the weights of a sub-block with levels q: of w q, w q q and w q x."""

    q: Number
    qq: Number
    qx: Number


def fit(weights: Floats, grid: Grid, importance: Floats | None = None) -> Scaled:
    """As `search.fit`."""
    x = weights.reshape(-1, grid.size)
    w = np.ones((1, grid.size), f32) if importance is None else importance.reshape(-1, grid.size)
    with np.errstate(all="ignore"):
        fits = [fit_block(x[i], w[i % len(w)], grid) for i in range(len(x))]
        codes = [codes_of(block, found, grid) for block, found in zip(x, fits, strict=True)]
    return Scaled(
        np.array([found.d for found in fits], f32),
        np.array([found.dmin for found in fits], f32),
        np.array([found.scales for found in fits], np.int32),
        np.array([found.mins for found in fits], np.int32),
        np.array(codes, np.uint8),
    )


def codes_of(x: Floats, found: Fit, grid: Grid) -> Codes:
    """The code nearest to each weight of a block."""
    steps = np.repeat(found.d * np.array(found.scales, f32), grid.sub)
    offsets = np.repeat(found.dmin * np.array(found.mins, f32), grid.sub)
    inverses = np.where(steps != 0, f32(1) / steps, f32(0))
    return nearest_codes((x + offsets) * inverses, grid)


def nearest_codes(v: Floats, grid: Grid) -> Codes:
    """The code of the level nearest to each value; NaN has the lowest level."""
    v = _clamped(v, f32(grid.lowest), f32(grid.highest))
    if grid.levels == "integers":
        return (np.rint(v) - f32(grid.lowest)).astype(np.int32)
    if grid.levels == "iq4":
        return iq4.nearest_values(v)
    codes = np.searchsorted(_E2M1_LIMITS, np.abs(v), side="left").astype(np.int32)
    return np.where((v < 0) & (codes > 0), codes | 8, codes)


def fit_block(x: Floats, w: Floats, grid: Grid) -> Fit:
    if grid.scales[0] == grid.scales[1]:
        d, dmin = _fit_one_range(x, w, grid) if grid.offset == "one" else (_fit_one_scale(x, w, grid), f32(0))
        return Fit(d, dmin, [1], [1])
    if grid.offset == "none":
        return _fit_scales(x, w, grid)
    return _fit_scales_and_mins(x, w, grid)


def error(x: Floats, w: Floats, step: Number, offset: Number, grid: Grid) -> Number:
    difference = x - (step * _levels(x, _inverse(step), offset, grid) - offset)
    return ordered_sum(w * difference * difference)


def fit_step(x: Floats, w: Floats, sign: int, grid: Grid) -> tuple[Number, Number]:
    """(what it explains, step): the best step of this sign without offset."""
    low, high = x.min(), x.max()
    top, bottom = (high, -low) if sign > 0 else (-low, high)
    base = max(max(top, f32(0)) / f32(grid.highest), max(bottom, f32(0)) / f32(-grid.lowest))
    best, best_step = f32(0), f32(0)
    if not base > 0:
        return best, best_step
    for rung in grid.ladder:
        inverse = f32(sign) / base * f32(rung)
        for refit in range(3):
            sums = _sums(x, w, inverse, f32(0), grid)
            if not (sums.qq > 0 and sums.qx * inverse > 0):
                break
            step = sums.qx / sums.qq
            gain = sums.qx * step
            if gain > best:
                best, best_step = gain, step
            elif refit > 0:
                break
            inverse = sums.qq / sums.qx
    return best, best_step


def fit_range(x: Floats, w: Floats, grid: Grid) -> tuple[Number, Number]:
    """(step, offset): the best positive step with an offset."""
    low, high = x.min(), x.max()
    if grid.offset != "one":
        low = min(low, f32(0))
    w_sum, x_sum, xx_sum = ordered_sum(w), ordered_sum(w * x), ordered_sum(w * x * x)
    width = high - low
    best, best_step, best_offset = f32(np.inf), f32(0), -low
    if not width > 0:
        return best_step, best_offset
    for rung in grid.ladder:
        inverse, offset = f32(rung) / width, -low
        for refit in range(3):
            sums = _sums(x, w, inverse, offset, grid)
            determinant = w_sum * sums.qq - sums.q * sums.q
            if not determinant > 0:
                break
            step, offset = _solved(sums, w_sum, x_sum, determinant)
            if grid.offset != "one" and offset < 0:
                step, offset = sums.qx / sums.qq, f32(0)
            if not step > 0:
                break
            crossed = step * sums.qx - offset * x_sum + step * offset * sums.q
            found = xx_sum + step * step * sums.qq + offset * offset * w_sum - f32(2) * crossed
            if found < best:
                best, best_step, best_offset = found, step, offset
            elif refit > 0:
                break
            inverse = f32(1) / step
    return best_step, best_offset


def scale_neighbour(v: Number, move: int, grid: Grid) -> Number:
    """As `level_grids.scale_neighbour`."""
    if grid.scale == "half":
        bits = half_bits(v)
        return half_value(bits & 0x8000 | min(max((bits & 0x7FFF) + move, 0), 0x7BFF))
    pattern = int(f32(v).view(np.uint32))
    if grid.scale == "e8m0":
        return f32(np.ldexp(1.0, min(max((pattern >> 23) + move, 1), 253) - 127))
    code = int(v * f32(1024)) if v < 2.0**-7 else (pattern >> 20) - 952
    code = min(max(code + move, 0), 126)
    return f32(code / 1024) if code < 8 else f32(np.ldexp(8 + (code & 7), (code >> 3) - 11))


def _fit_one_scale(x: Floats, w: Floats, grid: Grid) -> Number:
    best_d, best = f32(0), error(x, w, f32(0), f32(0), grid)
    is_half = grid.scale == "half"
    for sign in (1, -1) if is_half else (1,):
        _, step = fit_step(x, w, sign, grid)
        for move in range(-2, 3) if is_half else range(-1, 3):
            trial = scale_neighbour(step, move, grid)
            found = error(x, w, trial, f32(0), grid)
            if found < best:
                best, best_d = found, trial
    return best_d


def _fit_one_range(x: Floats, w: Floats, grid: Grid) -> tuple[Number, Number]:
    step, offset = fit_range(x, w, grid)
    best, best_pair = f32(np.inf), (f32(0), f32(0))
    for move in (-1, 0, 1):
        for offset_move in (-1, 0, 1):
            trial = scale_neighbour(step, move, grid), scale_neighbour(offset, offset_move, grid)
            found = error(x, w, *trial, grid)
            if found < best:
                best, best_pair = found, trial
    return best_pair


def _fit_scales(x: Floats, w: Floats, grid: Grid) -> Fit:
    parts = list(zip(x.reshape(-1, grid.sub), w.reshape(-1, grid.sub), strict=True))
    centres_at_first, top = [], f32(0)
    for part, weights in parts:
        (gain, step), (other_gain, other) = (fit_step(part, weights, sign, grid) for sign in (1, -1))
        pair = (step, other) if gain >= other_gain else (other, step)
        centres_at_first.append(pair)
        if abs(pair[0]) > abs(top):
            top = pair[0]
    best, best_fit = f32(np.inf), Fit(f32(0), f32(0), [0] * len(parts), [0] * len(parts))
    for start, _ in grid.starts:
        d = _half(top / f32(grid.scales[0]) * f32(start))
        centres = [list(pair) for pair in centres_at_first]
        last = f32(np.inf)
        for _ in range(grid.rounds):
            total = squares = products = f32(0)
            scales = []
            for j, (part, weights) in enumerate(parts):
                least, scale, which = f32(np.inf), f32(0), 0
                for k in (0, 1):
                    for trial in _near(centres[j][k], d, grid):
                        found = error(part, weights, d * trial, f32(0), grid)
                        if found < least:
                            least, scale, which = found, trial, k
                sums = _sums(part, weights, _inverse(d * scale), f32(0), grid)
                if sums.qq > 0:
                    centres[j][which] = sums.qx / sums.qq
                scales.append(int(scale))
                total = total + least
                squares = squares + scale * scale * sums.qq
                products = products + scale * sums.qx
            if total < best:
                best, best_fit = total, Fit(d, f32(0), scales, [0] * len(parts))
            if not total < last * ENOUGH:
                break
            last = total
            if squares > 0:
                d = _half(products / squares)
    return best_fit


def _fit_scales_and_mins(x: Floats, w: Floats, grid: Grid) -> Fit:
    parts = list(zip(x.reshape(-1, grid.sub), w.reshape(-1, grid.sub), strict=True))
    totals = [(ordered_sum(weights), ordered_sum(weights * part)) for part, weights in parts]
    centres_at_first = [fit_range(part, weights, grid) for part, weights in parts]
    top = [max(f32(0), *(pair[k] for pair in centres_at_first)) / f32(grid.scales[1]) for k in (0, 1)]
    best, best_fit = f32(np.inf), Fit(f32(0), f32(0), [0] * len(parts), [0] * len(parts))
    for start in grid.starts:
        d, dmin = (_half(top[k] * f32(start[k])) for k in (0, 1))
        centres = list(centres_at_first)
        last = f32(np.inf)
        for _ in range(grid.rounds):
            total = ss = sm = mm = s_x = m_x = f32(0)
            scales, mins = [], []
            for j, (part, weights) in enumerate(parts):
                least, scale, minimum = f32(np.inf), f32(0), f32(0)
                for trial in _near(centres[j][0], d, grid):
                    for trial_min in _near(centres[j][1], dmin, grid):
                        found = error(part, weights, d * trial, dmin * trial_min, grid)
                        if found < least:
                            least, scale, minimum = found, trial, trial_min
                sums = _sums(part, weights, _inverse(d * scale), dmin * minimum, grid)
                centres[j] = _new_centres(sums, *totals[j], centres[j])
                scales.append(int(scale))
                mins.append(int(minimum))
                total = total + least
                ss = ss + scale * scale * sums.qq
                sm = sm + scale * minimum * sums.q
                mm = mm + minimum * minimum * totals[j][0]
                s_x = s_x + scale * sums.qx
                m_x = m_x + minimum * totals[j][1]
            if total < best:
                best, best_fit = total, Fit(d, dmin, scales, mins)
            if not total < last * ENOUGH:
                break
            last = total
            d, dmin = _new_d(ss, sm, mm, s_x, m_x, d, dmin)
    return best_fit


def _new_centres(
    sums: Sums, w_sum: Number, x_sum: Number, old: tuple[Number, Number]
) -> tuple[Number, Number]:
    """The step and the offset that suit the codes at hand."""
    determinant = w_sum * sums.qq - sums.q * sums.q
    if not determinant > 0:
        return old
    step, offset = _solved(sums, w_sum, x_sum, determinant)
    if step > 0 and offset >= 0:
        return step, offset
    return (sums.qx / sums.qq, f32(0)) if sums.qx > 0 else old


def _new_d(
    ss: Number, sm: Number, mm: Number, s_x: Number, m_x: Number, d: Number, dmin: Number
) -> tuple[Number, Number]:
    """d and dmin that suit the codes, scales and mins of the whole block."""
    determinant = ss * mm - sm * sm
    new_d, new_dmin = s_x / ss, dmin
    if determinant > f32(1e-6) * ss * mm:
        new_d, new_dmin = (s_x * mm - sm * m_x) / determinant, (sm * s_x - ss * m_x) / determinant
    if new_dmin < 0:
        new_d, new_dmin = s_x / ss, f32(0)
    return (_half(new_d), _half(new_dmin)) if new_d > 0 else (d, dmin)


def _solved(sums: Sums, w_sum: Number, x_sum: Number, determinant: Number) -> tuple[Number, Number]:
    """The step and offset of least squares for levels that are given."""
    step = (w_sum * sums.qx - x_sum * sums.q) / determinant
    return step, (sums.q * sums.qx - sums.qq * x_sum) / determinant


def _near(value: Number, unit: Number, grid: Grid) -> Iterator[Number]:
    """The integer scale nearest to value / unit, and its neighbours."""
    low, high = f32(grid.scales[0]), f32(grid.scales[1])
    centre = np.rint(_clamped(value / unit if unit != 0 else f32(0), low, high))
    return (f32(_clamped(centre + f32(move), low, high)) for move in (-1, 0, 1))


def _sums(x: Floats, w: Floats, inverse: Number, offset: Number, grid: Grid) -> Sums:
    q = _levels(x, inverse, offset, grid)
    weighted = w * q
    return Sums(ordered_sum(weighted), ordered_sum(weighted * q), ordered_sum(weighted * x))


def _levels(x: Floats, inverse: Number, offset: Number, grid: Grid) -> Floats:
    levels: Floats = grid.level_of_code[nearest_codes((x + offset) * inverse, grid)]
    return levels


def _inverse(step: Number) -> Number:
    return f32(1) / step if step != 0 else f32(0)


def _half(v: Number) -> Number:
    return half_value(half_bits(v))


def _clamped(v: Floats | Number, low: Number, high: Number) -> Floats:
    at_least = np.where(v > low, v, low)
    return np.where(at_least < high, at_least, high).astype(f32)
