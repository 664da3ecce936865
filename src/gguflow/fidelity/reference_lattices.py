"""The search for lattices, one block at a time, in NumPy's binary32: what the kernel of `lattice_search` is
held to.
"""

from __future__ import annotations

import numpy as np

from gguflow.arrays import Bytes, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.fits import ordered_sum
from gguflow.fidelity.grids import Grid
from gguflow.fidelity.lattices import CHANCE, mean_gap, trial_levels
from gguflow.fidelity.reference_search import nearest_codes, scale_neighbour

f32 = np.float32


def find_block(x: Floats, grid: Grid, tolerance: float) -> tuple[np.float32, Bytes] | None:
    """The scale as it is stored, and the codes, of a block that lies on the grid; else None."""
    with np.errstate(all="ignore"):
        peak = x[np.abs(x).argmax()]
        if peak == 0:
            return f32(0), _codes(x, f32(0), grid)
        levels = trial_levels(grid)
        chance = f32(CHANCE / levels.size)
        for trial in levels:
            for exact, stored in _scales(x, peak / trial, grid, f32(tolerance)):
                if (
                    _lies_on(x, exact, f32(tolerance), grid)
                    and _probability(x, exact, tolerance, grid) <= chance
                ):
                    return stored, _codes(x, exact, grid)
    return None


def _scales(
    x: Floats, trial: np.float32, grid: Grid, tolerance: np.float32
) -> list[tuple[np.float32, np.float32]]:
    """Pairs of a scale to be judged and the same as it is stored."""
    if grid.scale != "half":
        return [(d, d) for d in (scale_neighbour(abs(trial), move, grid) for move in (0, 1))]
    if not _lies_on(x, trial, f32(2) * tolerance, grid):
        return []
    q = grid.level_of_code[_codes(x, trial, grid)]
    squares = ordered_sum(q * q)
    refined = ordered_sum(q * x) / squares if squares > 0 else trial
    stored = half_value(half_bits(refined))
    return [(refined, stored)] if 0 < abs(stored) <= 65504 else []


def _lies_on(x: Floats, d: np.float32, tolerance: np.float32, grid: Grid) -> bool:
    nearest = d * grid.level_of_code[_codes(x, d, grid)]
    return bool((np.abs(x - nearest) <= tolerance * np.abs(x)).all())


def _probability(x: Floats, d: np.float32, tolerance: float, grid: Grid) -> np.float32:
    """With which any weights are as near to levels."""
    shares = f32(2) * f32(tolerance) / mean_gap(grid) * np.abs(x * _inverse(d))
    return f32(np.multiply.accumulate(np.where((shares > 0) & (shares < 1), shares, f32(1)))[-1])


def _codes(x: Floats, d: np.float32, grid: Grid) -> Bytes:
    return nearest_codes(x * _inverse(d), grid).astype(np.uint8)


def _inverse(d: np.float32) -> np.float32:
    return f32(1) / d if d != 0 else f32(0)
