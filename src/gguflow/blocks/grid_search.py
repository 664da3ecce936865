"""How the I-quants with a grid are encoded: signs off, levels by a trial scale, the combination moved to a
grid point, the scale fitted again.

The formats differ in the numbers of a `Search`. Sums run from first to last in binary32, as in fits.py; the
same search on lanes is gguflow.kernels.grid_search.

Source of the algorithm: quantize_row_iq2_xxs_impl and its siblings, iq2_find_best_neighbour,
iq3_find_best_neighbour in ggml's ggml-quants.c; in words in spec/blocks/i-quants.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks.base import Floats
from gguflow.blocks.bits import half_bits, nearest_int
from gguflow.blocks.fits import fit_positive, nearest_codes, ordered_sum
from gguflow.blocks.grids import Grid, grid

f32 = np.float32
Levels = NDArray[np.uint8]

LARGEST = np.finfo(f32).max


@dataclass(frozen=True)
class Search:
    """What is particular to a format.

    grid: its name.
    sub_block: weights that share a scale.
    reach, step: trial scales map the largest weight to top + step * k, k = -reach ... reach, top being the
        highest level's odd number.
    tiny: a sub-block whose largest weight is below is all zeros.
    even_signs: the eighth sign of a group is not stored, so the number of minus signs is made even.
    refit: after the best trial, which groups look for their point again with its scale: those that were off
        the grid; all, if one was; or always all.
    positive_fit: the trials start from a fit of levels without a grid (fits.fit_positive) instead of from the
        largest weight.
    fudge: what the largest scale is multiplied by in the end.
    """

    grid: str
    sub_block: int
    reach: int
    step: float
    tiny: float
    even_signs: bool
    refit: Literal["off grid", "all", "always"]
    positive_fit: bool = False
    fudge: float = 1.0

    @property
    def top(self) -> int:
        return 2 * len(grid(self.grid).values) - 1


class Fit(NamedTuple):
    """A sub-block: its scale, the grid point of each group, and for each 8 weights a byte of signs, weight i
    in bit i.
    """

    scale: np.float32
    points: list[int]
    signs: list[int]


def error_weights(x: Floats, importance: Floats, mean_square: np.float32) -> Floats:
    """How much the error of each weight counts: importance * sqrt(mean_square + its square)."""
    weights: Floats = importance * np.sqrt(mean_square + x * x)
    return weights


def odd(levels: Levels) -> Floats:
    """The numbers that the search fits instead of what a level decodes to: 1, 3, 5, ..."""
    return f32(2) * levels.astype(f32) + f32(1)


def take_signs(x: Floats, w: Floats, even: bool) -> tuple[Floats, list[int]]:
    """Magnitudes, and a byte of signs per 8 weights.

    even: where the number of minus signs is odd, the weight whose sign costs least (the first with the
    smallest w * x**2) changes its own, and its magnitude becomes negative; of the byte, seven bits stay.
    """
    magnitudes = np.where(x >= 0, x, -x)
    signs = []
    for first in range(0, len(x), 8):
        group = slice(first, first + 8)
        bits = sum(int(not v >= 0) << i for i, v in enumerate(x[group]))
        if even and bits.bit_count() % 2:
            cheapest = int(np.argmin(w[group] * x[group] * x[group]))
            magnitudes[first + cheapest] *= f32(-1)
            bits ^= 1 << cheapest
        signs.append(bits & 127 if even else bits)
    return magnitudes, signs


def nearest_levels(v: Floats, inverse: np.float32, highest: int) -> Levels:
    """The level whose odd number is nearest to inverse * v."""
    return nearest_codes(f32(0.5) * (inverse * v - f32(1)), 0, highest).astype(np.uint8)


def to_grid(points: Grid, levels: Levels, v: Floats, w: Floats, scale: np.float32) -> int:
    """The number of the grid point that the levels are, or else of the best of its neighbours.

    That is the first with the smallest sum of w * (scale * odd - v)**2. Where no sum is finite (ggml stops
    the program there) it is the first of all.
    """
    code = points.pack(levels)
    if code in points.index:
        return points.index[code]
    candidates = points.neighbours(code)
    distance = np.zeros(len(candidates), f32)
    for i in range(points.group):
        difference = scale * odd(points.levels[candidates, i]) - v[i]
        distance = distance + w[i] * difference * difference
    return int(candidates[np.argmin(np.where(distance < LARGEST, distance, LARGEST))])


def fit(x: Floats, w: Floats, search: Search) -> Fit:
    """The sub-block x with error weights w."""
    points = grid(search.grid)
    groups = [slice(first, first + points.group) for first in range(0, len(x), points.group)]
    nothing = Fit(f32(0), [0] * len(groups), [0] * (len(x) // 8))
    v, signs = take_signs(x, w, search.even_signs)
    reference = v.max()
    if reference < f32(search.tiny):
        return nothing
    scale = reference / f32(search.top)
    if search.positive_fit:
        scale, _ = fit_positive(v, w, len(points.values) + 1)
        reference = scale * f32(len(points.values))
        if reference <= 0:
            return nothing
    root_w = np.sqrt(w)
    highest = len(points.values) - 1
    chosen = [0] * len(groups)
    off_grid = [search.refit != "off grid"] * len(groups)
    best = f32(0)
    for k in range(-search.reach, search.reach + 1):
        inverse = (f32(search.top) + f32(k) * f32(search.step)) / reference
        levels = nearest_levels(v, inverse, highest)
        trial = [
            to_grid(points, levels[group], v[group], root_w[group], f32(1) / inverse) for group in groups
        ]
        sum_qx, sum_q2 = _sums(points, trial, v, w)
        if sum_q2 > 0 and sum_qx * sum_qx > best * sum_q2:
            scale = sum_qx / sum_q2
            best = scale * sum_qx
            chosen = trial
            off_grid = [points.pack(levels[group]) not in points.index for group in groups]
    if (search.refit == "always" or any(off_grid)) and scale > 0:
        levels = nearest_levels(v, f32(1) / scale, highest)
        for i, group in enumerate(groups):
            if off_grid[i] or search.refit != "off grid":
                chosen[i] = to_grid(points, levels[group], v[group], root_w[group], scale)
        sum_qx, sum_q2 = _sums(points, chosen, v, w)
        if sum_q2 > 0:
            scale = sum_qx / sum_q2
    if scale < 0:
        scale = -scale
        signs = [~bits & (127 if search.even_signs else 255) for bits in signs]
    return Fit(scale, chosen, signs)


def _sums(points: Grid, chosen: list[int], v: Floats, w: Floats) -> tuple[np.float32, np.float32]:
    """Sums of w * v * odd and w * odd**2."""
    q = odd(points.levels[chosen].reshape(-1))
    return ordered_sum(w * v * q), ordered_sum(w * q * q)


def fit_super_block(x: Floats, w: Floats, search: Search) -> tuple[list[Fit], int, list[int]]:
    """All sub-blocks of 256 weights, the f16 pattern of the scale d, and the packed sub-scales, 0 to 15.

    Where no sub-block has a scale above zero, d and the sub-scales are 0.
    """
    fits = [
        fit(x[i : i + search.sub_block], w[i : i + search.sub_block], search)
        for i in range(0, len(x), search.sub_block)
    ]
    largest = f32(0)
    for f in fits:
        if f.scale > largest:  # a scale that is NaN, where ggml stops the program, is passed over
            largest = f.scale
    if largest == 0:
        return fits, 0, [0] * len(fits)
    d = largest / f32(31)
    inverse = f32(1) / d
    packed = [min(15, max(0, nearest_int(f32(0.5) * (inverse * f.scale - f32(1))))) for f in fits]
    return fits, half_bits(d * f32(search.fudge)), packed
