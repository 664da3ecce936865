"""Error feedback and descent for one row at a time, column by column, in NumPy's binary32, with
`reference_search` for the scales: what `feedback` and the kernels of `error_feedback` are held to. Without
products of matrices, sums are in another order there once a row has more than COLUMNS columns.
"""

from __future__ import annotations

import numpy as np

from gguflow.arrays import Floats
from gguflow.fidelity import reference_search
from gguflow.fidelity.grids import Grid
from gguflow.fidelity.moments import Factor
from gguflow.fidelity.packing import Scaled, decoded

f32 = np.float32
WORTH = f32(1e-5)


def quantize_row(w: Floats, factor: Factor, grid: Grid, passes: int) -> Scaled:
    """The units of one row. w: float32[n]."""
    with np.errstate(all="ignore"):
        units = feed(w, factor, grid)
        for _ in range(passes):
            units = descend(w, factor, grid, units)
    return units


def feed(w: Floats, factor: Factor, grid: Grid) -> Scaled:
    """Round column by column, and take each error off the columns to come."""
    rest, n = w.copy(), len(w)
    importance = factor.remaining
    fits, codes = [], np.empty(n, np.uint8)
    for head in range(0, n, grid.size):
        unit = slice(head, head + grid.size)
        found = reference_search.fit_block(rest[unit], importance[unit], grid)
        fits.append(found)
        for j in range(head, head + grid.size):
            step = found.d * f32(found.scales[(j - head) // grid.sub])
            offset = found.dmin * f32(found.mins[(j - head) // grid.sub])
            code, value = _nearest(rest[j], step, offset, grid)
            codes[j] = code
            error = (rest[j] - value) / factor.inverse[j, j]
            rest[j + 1 :] -= error * factor.inverse[j, j + 1 :]
    return Scaled(
        np.array([found.d for found in fits], f32),
        np.array([found.dmin for found in fits], f32),
        np.array([found.scales for found in fits], np.int32),
        np.array([found.mins for found in fits], np.int32),
        codes.reshape(-1, grid.size),
    )


def descend(w: Floats, factor: Factor, grid: Grid, units: Scaled) -> Scaled:
    """One pass: each code takes the level nearest to the minimum over its weight, where that lowers the
    form.
    """
    values, codes = decoded(grid, units).reshape(-1), units.codes.reshape(-1).copy()
    slopes = (factor.damped @ (w - values)).astype(f32)
    for j in range(len(w)):
        unit, part = j // grid.size, j % grid.size // grid.sub
        step = units.d[unit] * f32(units.scales[unit, part])
        offset = units.dmin[unit] * f32(units.mins[unit, part])
        square = factor.damped[j, j]
        code, value = _nearest(values[j] + slopes[j] / square, step, offset, grid)
        change = value - values[j]
        if change != 0 and change * (f32(2) * slopes[j] - change * square) > WORTH * (step * step * square):
            codes[j], values[j] = code, value
            slopes -= change * factor.damped[j]
    return Scaled(units.d, units.dmin, units.scales, units.mins, codes.reshape(-1, grid.size))


def form(w: Floats, values: Floats, factor: Factor) -> float:
    """(w - v) H (w - v)^T in binary64."""
    error = w.astype(np.float64) - values
    return float(error @ factor.damped.astype(np.float64) @ error)


def _nearest(v: np.float32, step: np.float32, offset: np.float32, grid: Grid) -> tuple[int, np.float32]:
    """The nearest code, and what it decodes to."""
    inverse = f32(1) / step if step != 0 else f32(0)
    code = int(reference_search.nearest_codes(np.array([(v + offset) * inverse], f32), grid)[0])
    return code, step * grid.level_of_code[code] - offset
