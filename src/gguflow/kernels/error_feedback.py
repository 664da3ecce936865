"""Rows of a matrix quantized column by column, each rounding error passed on to the columns to come, and
codes improved one at a time: what `gguflow.fidelity.feedback` does inside a block of columns. Between blocks
it multiplies matrices.

Sixteen rows advance together, one in each lane; no lane sees another. Matrices of rows are transposed:
column j of all R rows (R a multiple of 16) starts at flat element j * R. The scalar twin is
`gguflow.fidelity.reference_feedback`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels.lanes import (
    load,
    load_i32,
    load_u8,
    mask_bits,
    splat,
    store,
    store_i32,
    store_u8,
    to_float,
    unowned,
    vabs,
    where,
)
from gguflow.kernels.level_grids import Grid, code, inverse_of, level_of_code
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.scale_search import Found, fit_blocks, new_found
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, Int, U8s

f32 = np.float32

WORTH = f32(1e-5)
"""A code is changed where that lowers the form by more than this, in units of step**2 H_jj: more than
rounding.
"""


class OnGrid(NamedTuple):
    """Rows on the grid.

    d, dmin: float32[n // size * R].
    scales, mins: int32[n // sub * R].
    codes: uint8[n * R].
    values: float32[n * R], what the codes decode to.
    """

    d: F32s
    dmin: F32s
    scales: I32s
    mins: I32s
    codes: U8s
    values: F32s


@helper
def _step_and_offset(state: OnGrid, j: int, n_rows: int, row: int, grid: Grid) -> tuple[F32x16, F32x16]:
    """Of column j of sixteen rows."""
    unit, part = j // grid.size * n_rows + row, j // grid.sub * n_rows + row
    step = load(state.d, unit) * to_float(load_i32(state.scales, part))
    return step, load(state.dmin, unit) * to_float(load_i32(state.mins, part))


@helper
def _round(v: F32x16, step: F32x16, offset: F32x16, grid: Grid) -> tuple[I32x16, F32x16]:
    """The nearest code, and what it decodes to."""
    codes = code((v + offset) * inverse_of(step), grid)
    return codes, step * level_of_code(codes, grid) - offset


@helper
def _fit(
    rows: F32s,
    n_rows: int,
    row: int,
    weights: F32s,
    grid: Grid,
    column: int,
    work: F32s,
    first: int,
    last: int,
    x: F32s,
    w: F32s,
    found: Found,
) -> None:
    """Fit the scales of columns column ... column + size - 1 of sixteen rows to what these have become. Up to
    column `last` that is in `work`, which begins with column `first`.
    """
    for i in range(grid.size):
        j = column + i
        store(w, 16 * i, splat(weights[j]))
        store(x, 16 * i, load(work, 16 * (j - first)) if j < last else load(rows, j * n_rows + row))
    fit_blocks(x, w, grid, found)


@kernel
def feed(
    rows: F32s,
    n_rows: int,
    first: int,
    last: int,
    inverse: F32s,
    n: int,
    weights: F32s,
    grid: Grid,
    state: OnGrid,
    errors: F32s,
) -> None:
    """Quantize columns first ... last - 1 of all rows. At the head of each unit of `size` columns its scales
    are fitted to what the rows have become.

    rows: float32[n * R], what the columns from `first` on have become.
    n_rows: R.
    inverse: float32[n * n], the upper triangular factor of the inverse of H.
    n: columns.
    weights: float32[n], of squared errors in the fits.
    state: written; of d, dmin, scales and mins what begins in these columns.
    errors: float32[(last - first) * R], written: what was lost in each column, over its U_jj.
    """
    rows, inverse, weights = unowned(rows), unowned(inverse), unowned(weights)
    work = np.empty(16 * (last - first), f32)
    x = np.empty(16 * grid.size, f32)
    w = np.empty(16 * grid.size, f32)
    n_sub = grid.size // grid.sub
    found = new_found(n_sub)
    for row in range(0, n_rows, 16):
        for j in range(first, last):
            store(work, 16 * (j - first), load(rows, j * n_rows + row))
        for j in range(first, last):
            if j % grid.size == 0:
                _fit(rows, n_rows, row, weights, grid, j, work, first, last, x, w, found)
                at = j // grid.size * n_rows + row
                store(state.d, at, load(found.d, 0))
                store(state.dmin, at, load(found.dmin, 0))
                for k in range(n_sub):
                    at = (j // grid.sub + k) * n_rows + row
                    store_i32(state.scales, at, load_i32(found.scales, 16 * k))
                    store_i32(state.mins, at, load_i32(found.mins, 16 * k))
            step, offset = _step_and_offset(state, j, n_rows, row, grid)
            v = load(work, 16 * (j - first))
            chosen, value = _round(v, step, offset, grid)
            store_u8(state.codes, j * n_rows + row, chosen)
            store(state.values, j * n_rows + row, value)
            error = (v - value) / inverse[j * n + j]
            store(errors, (j - first) * n_rows + row, error)
            for k in range(j + 1, last):
                at = 16 * (k - first)
                store(work, at, load(work, at) - error * inverse[j * n + k])


@kernel
def descend(
    slopes: F32s,
    base: int,
    n_rows: int,
    first: int,
    last: int,
    moments: F32s,
    n: int,
    grid: Grid,
    state: OnGrid,
    changes: F32s,
) -> Int:
    """Give each code of columns first ... last - 1 in turn the level nearest to the minimum of the form over
    that one weight, where that lowers the form.

    slopes: float32[m * R], columns base ... base + m - 1 of H (w - v) for every row.
    moments: float32[n * n], H.
    n: columns.
    state: as `feed` left it; codes and values are changed.
    changes: float32[(last - first) * R], written: new values less old ones; the caller brings slopes up to
        date.
    Returns in how many columns of sixteen rows a code has changed.
    """
    slopes, moments = unowned(slopes), unowned(moments)
    work = np.empty(16 * (last - first), f32)
    n_changed = 0
    for row in range(0, n_rows, 16):
        for j in range(first, last):
            store(work, 16 * (j - first), load(slopes, (j - base) * n_rows + row))
        for j in range(first, last):
            step, offset = _step_and_offset(state, j, n_rows, row, grid)
            slope = load(work, 16 * (j - first))
            square = moments[j * n + j]
            old = load(state.values, j * n_rows + row)
            chosen, value = _round(old + slope / square, step, offset, grid)
            change = value - old
            gain = change * (f32(2) * slope - change * square)
            is_better = (vabs(change) > f32(0)) & (gain > WORTH * (step * step * square))
            change = where(is_better, change, f32(0))
            store(changes, (j - first) * n_rows + row, change)
            if mask_bits(is_better) == 0:
                continue
            n_changed += 1
            at = j * n_rows + row
            store_u8(state.codes, at, where(is_better, chosen, load_u8(state.codes, at)))
            store(state.values, j * n_rows + row, where(is_better, value, old))
            for k in range(j + 1, last):
                at = 16 * (k - first)
                store(work, at, load(work, at) - change * moments[j * n + k])
    return n_changed
