"""Weights that already lie on the grid of a format, as quantization-aware training leaves them: found, and
reproduced code by code, where a search for small errors or ggml's encoder would choose another scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.arrays import Floats, read_only
from gguflow.blocks import BlockFormat
from gguflow.errors import UnknownFormatError
from gguflow.fidelity.grids import GRIDS, Grid, grid_of
from gguflow.fidelity.packing import Scaled
from gguflow.fidelity.rows import checked_rows

TOLERANCES = ((16, 1.5 * 2.0**-8), (13, 1.5 * 2.0**-11), (0, 2.0**-13))
"""Trailing zero bits of all weights of a unit, and by how much of itself a weight may miss its level: BF16
and F16 round the product of scale and level by 2**-8 and 2**-11 of it at most, and the scale is fitted to
such products.
"""

CHANCE = 2.0**-24
"""With which a block of any weights may be taken for one on a lattice."""

LATTICES = tuple(key for key, grid in GRIDS.items() if grid.scales == (1, 1) and grid.offset == "none")
"""The formats whose lattices are looked for: those with one scale for a block and no offset."""


@dataclass(frozen=True)
class Found:
    """Where weights lie on the grid.

    format: in upper case.
    is_on: bool[n], for each unit of `Grid.size` weights.
    scaled: scales and codes of all units; only those of the units that are on the grid mean anything.
    """

    format: str
    is_on: NDArray[np.bool_]
    scaled: Scaled

    @property
    def share(self) -> float:
        """Of the units: 0 to 1; 0 where there are none."""
        return float(self.is_on.mean()) if self.is_on.size else 0.0

    def __str__(self) -> str:
        share = 100 * self.share
        shown = f"{share:.0f}" if share in (0, 100) or 1 <= share <= 99 else f"{share:.2f}"
        return f"{shown} % of the blocks lie on a {self.format} lattice"


def find(weights: ArrayLike, format: str | BlockFormat, tolerance: float | None = None) -> Found:
    """Look for weights on the grid of a format.

    weights: float32[..., n], finite.
    format: one of LATTICES.
    tolerance: relative; None for what suits the precision that the weights of each unit have, see TOLERANCES.

    Raises UnknownFormatError, ShapeError, NonFiniteError.
    """
    grid = grid_of(format)
    if grid.format not in LATTICES:
        raise UnknownFormatError(
            f"lattices of {grid.block_format.name} are not looked for; those of "
            f"{', '.join(key.upper() for key in LATTICES)} are"
        )
    array = checked_rows(weights, grid.block_format)
    flat = array.reshape(-1)
    return find_stored(flat, grid) if tolerance is None else find_flat(flat, grid, tolerance)


def find_flat(weights: Floats, grid: Grid, tolerance: float) -> Found:
    """As `find`, of whole blocks that have been checked: float32[n * size], flat."""
    from gguflow.kernels import lattice_search

    n, levels = weights.size // grid.size, trial_levels(grid)
    batches = -(-n // 16)
    d, found = np.empty(16 * batches, np.float32), np.empty(16 * batches, np.int32)
    codes = np.empty(16 * batches * grid.size, np.uint8)
    lattice_search.find(
        read_only(weights),
        grid.for_kernels(),
        read_only(levels),
        np.float32(tolerance),
        mean_gap(grid),
        np.float32(CHANCE / levels.size),
        d,
        found,
        codes,
    )
    in_order = codes.reshape(batches, grid.size, 16).transpose(0, 2, 1).reshape(-1, grid.size)[:n]
    ones = np.ones((n, 1), np.int32)
    scaled = Scaled(d[:n], np.zeros(n, np.float32), ones, ones, np.ascontiguousarray(in_order))
    return Found(grid.block_format.name, found[:n] == 1, scaled)


def trial_levels(grid: Grid) -> Floats:
    """What the largest weight of a block may stand for: the smallest levels, so the coarsest grids, first."""
    if grid.levels == "integers":  # d has either sign, so that of the level is free, save that of the lowest
        return np.array([*range(1, grid.highest + 1), grid.lowest], np.float32)
    levels = np.unique(grid.level_of_code)
    if grid.scale != "half":
        levels = levels[levels > 0]  # d has no sign, and levels are the same on both sides
    levels = levels[levels != 0]
    return np.ascontiguousarray(levels[np.argsort(np.abs(levels), kind="stable")])


def mean_gap(grid: Grid) -> np.float32:
    """Between neighbouring levels."""
    levels = np.unique(grid.level_of_code)
    return np.float32((levels[-1] - levels[0]) / (levels.size - 1))


def find_stored(weights: Floats, grid: Grid) -> Found:
    """As `find_flat`, with the tolerance that suits the bits of each unit: so what is found in a unit does
    not depend on the weights around it.
    """
    units = weights.reshape(-1, grid.size)
    bits = np.bitwise_or.reduce(units.view(np.uint32), axis=1)
    kinds = np.full(bits.size, len(TOLERANCES) - 1)
    for kind in reversed(range(len(TOLERANCES))):
        kinds[bits & np.uint32((1 << TOLERANCES[kind][0]) - 1) == 0] = kind
    present = np.unique(kinds).tolist()
    if len(present) < 2:
        return find_flat(weights, grid, TOLERANCES[present[0] if present else 0][1])
    found = find_flat(weights, grid, TOLERANCES[present[-1]][1])
    for kind in present[:-1]:
        of_kind = kinds == kind
        part = find_flat(np.ascontiguousarray(units[of_kind]).reshape(-1), grid, TOLERANCES[kind][1])
        found.is_on[of_kind] = part.is_on
        found.scaled.d[of_kind] = part.scaled.d
        found.scaled.codes[of_kind] = part.scaled.codes
    return found


def taken(scaled: Scaled, found: Found) -> Scaled:
    """The units that lie on the grid as they are there, the others as they are."""

    def chosen(theirs: NDArray[Any], mine: NDArray[Any]) -> NDArray[Any]:
        return np.where(found.is_on.reshape(-1, *(1,) * (mine.ndim - 1)), theirs, mine)

    other = found.scaled
    return Scaled(
        chosen(other.d, scaled.d),
        chosen(other.dmin, scaled.dmin),
        chosen(other.scales, scaled.scales),
        chosen(other.mins, scaled.mins),
        chosen(other.codes, scaled.codes),
    )
