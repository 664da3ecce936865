"""Scales for whole blocks: the integer scales of sub-blocks, and d and dmin as they are stored, fitted to the
weights together with the codes. Sixteen blocks at a time, one in each lane; no lane sees another. The scalar
twin is `gguflow.fidelity.reference_search`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels.lanes import (
    load,
    load_i32,
    mask_bits,
    splat,
    store,
    store_i32,
    store_u8,
    to_float,
    to_int,
    transpose16,
    unowned,
    vabs,
    where,
)
from gguflow.kernels.level_grids import (
    HALF,
    NO_OFFSET,
    ONE_OFFSET,
    Grid,
    clamp,
    code,
    half,
    half_neighbour,
    inverse_of,
    nearest,
    scale_neighbour,
)
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.scale_fits import error, fit_range, fit_step, level_sums, weight_sums
from gguflow.kernels.types import F32s, F32x16, I32s, U8s

f32 = np.float32
i32 = np.int32

ENOUGH = f32(0.9999)
"""A round that lowers the error by less than this factor is the last one."""


class Found(NamedTuple):
    """What is found for sixteen blocks of n sub-blocks, and scratch. Vectors, one for each sub-block.

    d, dmin: float32[16].
    scales, mins: int32[n * 16].
    trial_scales, trial_mins: float32[n * 16], those of the trial at hand.
    steps, offsets: float32[2 * n * 16], real-valued, at the start and now: two of either sign, or one and an
        offset.
    sums: float32[2 * n * 16], of w and w x.
    """

    d: F32s
    dmin: F32s
    scales: I32s
    mins: I32s
    trial_scales: F32s
    trial_mins: F32s
    starts: F32s
    centres: F32s
    sums: F32s


@helper
def new_found(n: int) -> Found:
    return Found(
        np.zeros(16, f32),
        np.zeros(16, f32),
        np.zeros(16 * n, i32),
        np.zeros(16 * n, i32),
        np.zeros(16 * n, f32),
        np.zeros(16 * n, f32),
        np.zeros(32 * n, f32),
        np.zeros(32 * n, f32),
        np.zeros(32 * n, f32),
    )


@helper
def fit_blocks(x: F32s, w: F32s, grid: Grid, found: Found) -> None:
    """Find d, dmin, scales and mins of sixteen blocks. x, w: float32[16 * size], lanes."""
    zero = splat(f32(0))
    store(found.d, 0, zero)
    store(found.dmin, 0, zero)
    single = 1 if grid.scale_low == grid.scale_high else 0
    for i in range(0, found.scales.size, 16):
        store_i32(found.scales, i, splat(single))
        store_i32(found.mins, i, splat(single))
    if single == 0:
        if grid.offset == NO_OFFSET:
            _fit_scales(x, w, grid, found)
        else:
            _fit_scales_and_mins(x, w, grid, found)
    elif grid.offset == ONE_OFFSET:
        _fit_one_range(x, w, grid, found)
    else:
        _fit_one_scale(x, w, grid, found)


@helper
def _fit_one_scale(x: F32s, w: F32s, grid: Grid, found: Found) -> None:
    """d alone: the fitted steps of either sign, and stored numbers near them."""
    zero = splat(f32(0))
    best_d = zero
    best = error(x, w, 0, grid.size, zero, zero, grid)
    first, last = (-2, 2) if grid.scale == HALF else (-1, 2)
    for k in range(2 if grid.scale == HALF else 1):
        _, step = fit_step(x, w, 0, grid.size, f32(1 - 2 * k), grid)
        for move in range(first, last + 1):
            trial = scale_neighbour(step, move, grid)
            found_error = error(x, w, 0, grid.size, trial, zero, grid)
            better = found_error < best
            best = where(better, found_error, best)
            best_d = where(better, trial, best_d)
    store(found.d, 0, best_d)


@helper
def _fit_one_range(x: F32s, w: F32s, grid: Grid, found: Found) -> None:
    """d and an offset of either sign: what was fitted, and the binary16 numbers next to it."""
    step, offset = fit_range(x, w, 0, grid.size, grid)
    best = splat(f32(np.inf))
    best_d = best_offset = splat(f32(0))
    for move in range(-1, 2):
        d = half_neighbour(step, move)
        for offset_move in range(-1, 2):
            trial = half_neighbour(offset, offset_move)
            found_error = error(x, w, 0, grid.size, d, trial, grid)
            better = found_error < best
            best = where(better, found_error, best)
            best_d = where(better, d, best_d)
            best_offset = where(better, trial, best_offset)
    store(found.d, 0, best_d)
    store(found.dmin, 0, best_offset)


@helper
def _centre(value: F32x16, unit: F32x16, grid: Grid) -> F32x16:
    """The integer nearest to value / unit, in the range of the scales."""
    ratio = where(unit != f32(0), value / unit, f32(0))
    return nearest(clamp(ratio, splat(f32(grid.scale_low)), splat(f32(grid.scale_high))))


@helper
def _moved(centre: F32x16, move: int, grid: Grid) -> F32x16:
    return clamp(centre + f32(move), splat(f32(grid.scale_low)), splat(f32(grid.scale_high)))


@helper
def _fit_scales(x: F32s, w: F32s, grid: Grid, found: Found) -> None:
    """d and a scale for each sub-block. The one of the largest magnitude becomes the lowest at first."""
    n = grid.size // grid.sub
    zero = splat(f32(0))
    top = zero
    for j in range(n):
        gain, step = fit_step(x, w, j * grid.sub, grid.sub, f32(1), grid)
        other_gain, other = fit_step(x, w, j * grid.sub, grid.sub, f32(-1), grid)
        first = where(gain >= other_gain, step, other)
        store(found.starts, 32 * j, first)
        store(found.starts, 32 * j + 16, where(gain >= other_gain, other, step))
        top = where(vabs(first) > vabs(top), first, top)
    best = splat(f32(np.inf))
    for start in range(0, grid.starts.size, 2):
        d = half(top / f32(grid.scale_low) * grid.starts[start])
        for i in range(0, 32 * n, 16):
            store(found.centres, i, load(found.starts, i))
        last = splat(f32(np.inf))
        active = d == d
        for _ in range(grid.rounds):
            total = squares = products = zero
            for j in range(n):
                least, ss_qq, s_qx = _choose_scale(x, w, j, d, grid, found)
                total = total + least
                squares = squares + ss_qq
                products = products + s_qx
            better = active & (total < best)
            best = where(better, total, best)
            _keep(better, d, zero, found)
            active = active & (total < last * ENOUGH)
            if mask_bits(active) == 0:
                break
            last = total
            d = where(active & (squares > zero), half(products / squares), d)


@helper
def _choose_scale(
    x: F32s, w: F32s, j: int, d: F32x16, grid: Grid, found: Found
) -> tuple[F32x16, F32x16, F32x16]:
    """The integer scale of sub-block j with the least error, near what was fitted for either sign. Its step
    is solved again.

    Returns the error, and what the sub-block adds to the sums that give d.
    """
    zero = splat(f32(0))
    least = splat(f32(np.inf))
    scale = zero
    is_other = zero > zero
    for k in range(2):
        centre = _centre(load(found.centres, 32 * j + 16 * k), d, grid)
        for move in range(-1, 2):
            trial = _moved(centre, move, grid)
            found_error = error(x, w, j * grid.sub, grid.sub, d * trial, zero, grid)
            better = found_error < least
            least = where(better, found_error, least)
            scale = where(better, trial, scale)
            is_other = (is_other & ~better) | (better & (splat(k) > 0))
    store(found.trial_scales, 16 * j, scale)
    _, qq_sum, qx_sum = level_sums(x, w, j * grid.sub, grid.sub, inverse_of(d * scale), zero, grid)
    solved = qx_sum / qq_sum
    for k in range(2):
        mine = (qq_sum > zero) & (is_other if k == 1 else ~is_other)
        old = load(found.centres, 32 * j + 16 * k)
        store(found.centres, 32 * j + 16 * k, where(mine, solved, old))
    return least, scale * scale * qq_sum, scale * qx_sum


@helper
def _keep(better: F32x16, d: F32x16, dmin: F32x16, found: Found) -> None:
    """Where it is better, the trial becomes what is found."""
    store(found.d, 0, where(better, d, load(found.d, 0)))
    store(found.dmin, 0, where(better, dmin, load(found.dmin, 0)))
    for i in range(0, found.scales.size, 16):
        scale, minimum = to_int(load(found.trial_scales, i)), to_int(load(found.trial_mins, i))
        store_i32(found.scales, i, where(better, scale, load_i32(found.scales, i)))
        store_i32(found.mins, i, where(better, minimum, load_i32(found.mins, i)))


@helper
def _fit_scales_and_mins(x: F32s, w: F32s, grid: Grid, found: Found) -> None:
    """d, dmin, and a scale and a min for each sub-block. The largest become the highest at first."""
    n = grid.size // grid.sub
    zero = splat(f32(0))
    top_step = top_offset = zero
    for j in range(n):
        w_sum, x_sum, _ = weight_sums(x, w, j * grid.sub, grid.sub)
        store(found.sums, 32 * j, w_sum)
        store(found.sums, 32 * j + 16, x_sum)
        step, offset = fit_range(x, w, j * grid.sub, grid.sub, grid)
        store(found.starts, 32 * j, step)
        store(found.starts, 32 * j + 16, offset)
        top_step = where(step > top_step, step, top_step)
        top_offset = where(offset > top_offset, offset, top_offset)
    best = splat(f32(np.inf))
    for start in range(0, grid.starts.size, 2):
        d = half(top_step / f32(grid.scale_high) * grid.starts[start])
        dmin = half(top_offset / f32(grid.scale_high) * grid.starts[start + 1])
        for i in range(0, 32 * n, 16):
            store(found.centres, i, load(found.starts, i))
        last = splat(f32(np.inf))
        active = d == d
        for _ in range(grid.rounds):
            total = ss = sm = mm = s_x = m_x = zero
            for j in range(n):
                least, q_sum, qq_sum, qx_sum = _choose_scale_and_min(x, w, j, d, dmin, grid, found)
                scale, minimum = load(found.trial_scales, 16 * j), load(found.trial_mins, 16 * j)
                total = total + least
                ss = ss + scale * scale * qq_sum
                sm = sm + scale * minimum * q_sum
                mm = mm + minimum * minimum * load(found.sums, 32 * j)
                s_x = s_x + scale * qx_sum
                m_x = m_x + minimum * load(found.sums, 32 * j + 16)
            better = active & (total < best)
            best = where(better, total, best)
            _keep(better, d, dmin, found)
            active = active & (total < last * ENOUGH)
            if mask_bits(active) == 0:
                break
            last = total
            determinant = ss * mm - sm * sm
            is_regular = determinant > f32(1e-6) * ss * mm
            new_d = where(is_regular, (s_x * mm - sm * m_x) / determinant, s_x / ss)
            new_dmin = where(is_regular, (sm * s_x - ss * m_x) / determinant, dmin)
            is_negative = new_dmin < zero
            new_d = where(is_negative, s_x / ss, new_d)
            new_dmin = where(is_negative, zero, new_dmin)
            usable = active & (new_d > zero)
            d = where(usable, half(new_d), d)
            dmin = where(usable, half(new_dmin), dmin)


@helper
def _choose_scale_and_min(
    x: F32s, w: F32s, j: int, d: F32x16, dmin: F32x16, grid: Grid, found: Found
) -> tuple[F32x16, F32x16, F32x16, F32x16]:
    """The integer scale and min of sub-block j with the least error, near what was fitted. Its step and
    offset are solved again.

    Returns the error, and the sums of w q, w q q and w q x.
    """
    zero = splat(f32(0))
    least = splat(f32(np.inf))
    scale = minimum = zero
    centre = _centre(load(found.centres, 32 * j), d, grid)
    min_centre = _centre(load(found.centres, 32 * j + 16), dmin, grid)
    for move in range(-1, 2):
        trial = _moved(centre, move, grid)
        for min_move in range(-1, 2):
            trial_min = _moved(min_centre, min_move, grid)
            found_error = error(x, w, j * grid.sub, grid.sub, d * trial, dmin * trial_min, grid)
            better = found_error < least
            least = where(better, found_error, least)
            scale = where(better, trial, scale)
            minimum = where(better, trial_min, minimum)
    store(found.trial_scales, 16 * j, scale)
    store(found.trial_mins, 16 * j, minimum)
    q_sum, qq_sum, qx_sum = level_sums(
        x, w, j * grid.sub, grid.sub, inverse_of(d * scale), dmin * minimum, grid
    )
    w_sum, x_sum = load(found.sums, 32 * j), load(found.sums, 32 * j + 16)
    determinant = w_sum * qq_sum - q_sum * q_sum
    step = (w_sum * qx_sum - x_sum * q_sum) / determinant
    offset = (q_sum * qx_sum - qq_sum * x_sum) / determinant
    both = (determinant > zero) & (step > zero) & (offset >= zero)
    step_only = ~both & (determinant > zero) & (qx_sum > zero)
    step = where(both, step, where(step_only, qx_sum / qq_sum, load(found.centres, 32 * j)))
    offset = where(both, offset, where(step_only, zero, load(found.centres, 32 * j + 16)))
    store(found.centres, 32 * j, step)
    store(found.centres, 32 * j + 16, offset)
    return least, q_sum, qq_sum, qx_sum


@kernel
def search(
    x: F32s, importance: F32s, grid: Grid, d: F32s, dmin: F32s, scales: I32s, mins: I32s, codes: U8s
) -> None:
    """Fit all blocks of x. Sixteen blocks make a batch, the last of them filled up with zeros.

    x: float32[n * size], finite.
    importance: float32[m * size]; block i uses entry i % m.
    d, dmin: float32[batches * 16], written.
    scales, mins: int32[batches * (size // sub) * 16], written.
    codes: uint8[batches * size * 16], written; 16 * i + k of a batch is weight i of block k.
    """
    x, importance = unowned(x), unowned(importance)
    size = grid.size
    n_blocks = x.size // size
    entries = importance.size // size
    n = size // grid.sub
    natural = np.zeros(16 * size, f32)
    natural_w = np.zeros(16 * size, f32)
    lanes = np.empty(16 * size, f32)
    w = np.empty(16 * size, f32)
    found = new_found(n)
    for first in range(0, n_blocks, 16):
        for k in range(16):
            block = first + k
            for i in range(0, size, 16):
                v = load(x, block * size + i) if block < n_blocks else splat(f32(0))
                store(natural, k * size + i, v)
                store(natural_w, k * size + i, load(importance, block % entries * size + i))
        for i in range(0, size, 16):
            transpose16(natural, i, size, lanes, i)
            transpose16(natural_w, i, size, w, i)
        fit_blocks(lanes, w, grid, found)
        store(d, first, load(found.d, 0))
        store(dmin, first, load(found.dmin, 0))
        for j in range(n):
            store_i32(scales, first * n + 16 * j, load_i32(found.scales, 16 * j))
            store_i32(mins, first * n + 16 * j, load_i32(found.mins, 16 * j))
            step = load(found.d, 0) * to_float(load_i32(found.scales, 16 * j))
            offset = load(found.dmin, 0) * to_float(load_i32(found.mins, 16 * j))
            inverse = inverse_of(step)
            for i in range(j * grid.sub, (j + 1) * grid.sub):
                store_u8(codes, first * size + 16 * i, code((load(lanes, 16 * i) + offset) * inverse, grid))


@kernel
def block_errors(x: F32s, importance: F32s, decoded: F32s, size: int, errors: F32s) -> None:
    """The weighted squared error of each block, from its first weight to the last.

    x, decoded: float32[n * size], size a multiple of 16.
    importance: float32[m * size]; block i uses entry i % m.
    errors: float32[n], written.
    """
    x, importance, decoded = unowned(x), unowned(importance), unowned(decoded)
    entries = importance.size // size
    terms = np.zeros(256, f32)
    lanes = np.empty(256, f32)
    sums = np.empty(16, f32)
    for first in range(0, errors.size, 16):
        count = min(16, errors.size - first)
        total = splat(f32(0))
        for start in range(0, size, 16):
            for k in range(count):
                at = (first + k) * size + start
                difference = load(x, at) - load(decoded, at)
                w = load(importance, (first + k) % entries * size + start)
                store(terms, 16 * k, w * difference * difference)
            transpose16(terms, 0, 16, lanes, 0)
            for i in range(16):
                total = total + load(lanes, 16 * i)
        store(sums, 0, total)
        for k in range(count):
            errors[first + k] = sums[k]
