"""How IQ1_S and IQ1_M are encoded: the best split of the sorted weights into -1, 0 and 1 (all splits are
tried), moved to grid points.

The three values are shifted by 1/8 up or down; IQ1_S decides that for all weights of a sub-block, IQ1_M for
each half of it. Sums run from first to last in binary32, as in fits.py; the same search on lanes is
gguflow.kernels.iq1_search.

Source of the algorithm: quantize_row_iq1_s_impl, quantize_row_iq1_m_impl and iq1_find_best_neighbour2 in
ggml's ggml-quants.c; in words in spec/blocks/i-quants.md. ggml sorts with the C library's qsort, which leaves
the order of equal weights open; glibc keeps it, and so does this.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks.base import Floats
from gguflow.blocks.fits import ordered_sum
from gguflow.blocks.grid_search import LARGEST
from gguflow.blocks.grids import grid

f32 = np.float32

SHIFT = f32(0.125)


class Fit(NamedTuple):
    """A sub-block: its scale, the grid point of each group of 8, and 1 or -1 for the shift of each of its
    halves (or of its whole).
    """

    scale: np.float32
    points: list[int]
    shifts: list[int]


def values(shift: int) -> Floats:
    """What the levels 0, 1, 2 stand for."""
    return np.array([-1, 0, 1], f32) + f32(shift) * SHIFT


def fit(x: Floats, w: Floats, halves: int, tiny: np.float32) -> Fit:
    """The sub-block x with error weights w. halves: 1 or 2, how many shifts it has. Where all weights are
    below tiny the scale is 0.
    """
    nothing = Fit(f32(0), [0] * (len(x) // 8), [1] * halves)
    if np.abs(x).max() < tiny:
        return nothing
    order = np.argsort(x, kind="stable")
    choices = [[1], [-1]] if halves == 1 else [[1, 1], [1, -1], [-1, 1], [-1, -1]]
    splits = [(i, j) for i in range(len(x) + 1) for j in range(i, len(x) + 1)]
    sums = _sums_of_splits(x, w, order, splits) if halves == 1 else _sums_of_halves(x, w, order, splits)
    best, scale = _select(*sums)
    if best < 0:
        return nothing
    (i, j), shifts = splits[best // len(choices)], choices[best % len(choices)]
    levels = np.empty(len(x), np.uint8)
    levels[order] = np.repeat([0, 1, 2], [i, j - i, len(x) - j])
    if scale < 0:
        levels, scale, shifts = 2 - levels, -scale, [-shift for shift in shifts]
    return _to_grid(x, w, levels, scale, shifts)


def _sums_of_splits(
    x: Floats, w: Floats, order: NDArray[Any], splits: list[tuple[int, int]]
) -> tuple[Floats, Floats]:
    """Sums of w * x * value and w * value**2 for each split and each of the two shifts, in that order."""
    first, second = np.array(splits).T
    sum_x, sum_w = (np.add.accumulate(np.append(f32(0), terms)) for terms in (w[order] * x[order], w[order]))
    parts_x, parts_w = ([s[first] - s[0], s[second] - s[first], s[-1] - s[second]] for s in (sum_x, sum_w))
    sum_qx, sum_q2 = np.empty((2, len(splits), 2), f32)
    for k, shift in enumerate((1, -1)):
        a, b, c = values(shift)
        sum_qx[:, k] = parts_x[0] * a + parts_x[1] * b + parts_x[2] * c
        sum_q2[:, k] = parts_w[0] * a * a + parts_w[1] * b * b + parts_w[2] * c * c
    return sum_qx.reshape(-1), sum_q2.reshape(-1)


def _sums_of_halves(
    x: Floats, w: Floats, order: NDArray[Any], splits: list[tuple[int, int]]
) -> tuple[Floats, Floats]:
    """As _sums_of_splits, with a shift for each half: four choices to a split. Neighbouring values differ by
    1, so the sums collapse.
    """
    first, second = np.array(splits).T
    half_qx, half_q2 = np.empty((2, 2, 2, len(splits)), f32)  # [half][shift]
    for half in range(2):
        inside = order // (len(x) // 2) == half
        sum_x, sum_w = (
            np.add.accumulate(np.append(f32(0), np.where(inside, terms, f32(0))))
            for terms in (w[order] * x[order], w[order])
        )
        for k, shift in enumerate((1, -1)):
            a, b, c = values(shift)
            half_qx[half, k] = sum_x[-1] * c - (sum_x[first] + sum_x[second])
            half_q2[half, k] = (
                sum_w[-1] * c * c + sum_w[first] * (a * a - b * b) + sum_w[second] * (b * b - c * c)
            )
    sum_qx, sum_q2 = (
        np.stack([s[0][k // 2] + s[1][k % 2] for k in range(4)], axis=1) for s in (half_qx, half_q2)
    )
    return sum_qx.reshape(-1), sum_q2.reshape(-1)


def _select(sum_qx: Floats, sum_q2: Floats) -> tuple[int, np.float32]:
    """The number of the best candidate and its scale; -1 where no sum_q2 is above zero. Compared in order,
    each with the best before it.
    """
    best, chosen, scale = -LARGEST, -1, f32(0)
    for n, (qx, q2) in enumerate(zip(sum_qx, sum_q2, strict=True)):
        if q2 > 0 and qx * qx > best * q2:
            scale = qx / q2
            best, chosen = scale * qx, n
    return chosen, scale


def _to_grid(x: Floats, w: Floats, levels: NDArray[Any], scale: np.float32, shifts: list[int]) -> Fit:
    """Move each group to a grid point; if one had to move, fit the scale again."""
    points = grid("iq1")
    chosen, q, all_on_grid = [], [], True
    for k, first in enumerate(range(0, len(x), 8)):
        group = slice(first, first + 8)
        shifted = values(shifts[k % len(shifts)])
        code = points.pack(levels[group])
        if code in points.index:
            chosen.append(points.index[code])
        else:
            all_on_grid = False
            candidates = points.neighbours(code)
            distance = np.zeros(len(candidates), f32)
            for i in range(8):
                difference = scale * shifted[points.levels[candidates, i]] - x[group][i]
                distance = distance + w[group][i] * difference * difference
            chosen.append(int(candidates[np.argmin(np.where(distance < LARGEST, distance, LARGEST))]))
        q.append(shifted[points.levels[chosen[-1]]])
    if not all_on_grid:
        values_of = np.concatenate(q)
        sum_qx, sum_q2 = ordered_sum(w * values_of * x), ordered_sum(w * values_of * values_of)
        if sum_qx > 0 and sum_q2 > 0:
            scale = sum_qx / sum_q2
    return Fit(scale, chosen, shifts)
