"""The search of `gguflow.blocks.grid_search` on lanes. Two ways to fill them, in turn:

- a trial scale per lane (13, 19 or 31 of them): levels, and the sums that judge a trial, see each weight in the scalar order;
- a candidate per lane, where a combination of levels is not on the grid: 16 neighbours are measured at a time, and the first of the nearest wins.

The lists of neighbours are derived from the grid at first use (`tables`): ggml's take seconds, these some hundredths of a second.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import grid_search as reference
from gguflow.blocks.grids import Grid, grid
from gguflow.kernels.bits import nearest_int, nearest_int_scalar
from gguflow.kernels.policy import kernel
from gguflow.kernels.search import clamp, fit_positive
from gguflow.lanes import (
    lane,
    lane_numbers,
    load,
    load_i32,
    load_u16,
    lowest_bit,
    mask_bits,
    smallest,
    splat,
    store,
    store_i32,
    to_float,
    transpose16,
    vsqrt,
    where,
)

f32 = np.float32
i32 = np.int32

SIZE = 256
LARGEST = np.finfo(f32).max
OFF_GRID, ALL, ALWAYS = 0, 1, 2
_TRIALS = 32  # room for trial scales, in whole vectors


class Tables(NamedTuple):
    """A grid, ready to be searched. A code is a combination of levels, packed as `Grid.codes`.

    index: int32[codes], the number of the grid point with this code, or -1.
    first, last: int32[codes], where a code that is not on the grid has its neighbours in `neighbours`; whole vectors.
    neighbours: codes of grid points, uint16 as uint8; a list that does not fill its last vector repeats its last entry, which never wins.
    """

    index: NDArray[np.int32]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    neighbours: NDArray[np.uint8]


class Search(NamedTuple):
    """reference.Search as numbers that a kernel takes."""

    group: int
    level_bits: int
    highest: int
    sub_block: int
    top: np.float32
    reach: int
    step: np.float32
    tiny: np.float32
    even_signs: bool
    refit: int
    positive_fit: bool


class Work(NamedTuple):
    """What the search leaves of a super-block, and its scratch memory.

    scales: float32[16], one per sub-block. codes: int32[64], one per group, on the grid. signs: int32[32], a byte per 8 weights.
    v, w, root_w: float32[256], magnitudes, error weights and their roots.
    """

    scales: NDArray[np.float32]
    codes: NDArray[np.int32]
    signs: NDArray[np.int32]
    v: NDArray[np.float32]
    w: NDArray[np.float32]
    root_w: NDArray[np.float32]
    trial_scales: NDArray[np.float32]
    trial_codes: NDArray[np.int32]
    trial_sums: NDArray[np.float32]
    off_grid: NDArray[np.int32]
    natural: NDArray[np.float32]
    lanes: NDArray[np.float32]


def parameters(search: reference.Search) -> Search:
    points = grid(search.grid)
    return Search(
        group=points.group,
        level_bits=points.level_bits,
        highest=len(points.values) - 1,
        sub_block=search.sub_block,
        top=f32(search.top),
        reach=search.reach,
        step=f32(search.step),
        tiny=f32(search.tiny),
        even_signs=search.even_signs,
        refit={"off grid": OFF_GRID, "all": ALL, "always": ALWAYS}[search.refit],
        positive_fit=search.positive_fit,
    )


# --- neighbours ----------------------------------------------------------------------------------------------------------------------------------


@functools.cache
def tables(name: str) -> Tables:
    """The search structure of a grid, built once per process."""
    points = grid(name)
    half_bits = points.group * points.level_bits // 2
    index = np.full(1 << 2 * half_bits, -1, np.int32)
    index[points.codes] = np.arange(len(points.codes))
    first, last, neighbours = _list_neighbours(points.codes.astype(np.int32), index, _half_distances(points), half_bits, points.shells)
    return Tables(index, first, last, neighbours.astype("<u2").view(np.uint8))


def _half_distances(points: Grid) -> NDArray[np.int32]:
    """int32[m, m]: the squared distance between two halves of a code; -1 from a half with a level that does not exist."""
    codes = np.arange(1 << points.group * points.level_bits // 2)
    levels = points.unpack(codes)[:, : points.group // 2].astype(np.int32)
    distances = ((levels[:, None] - levels[None]) ** 2).sum(axis=2).astype(np.int32)
    distances[(levels >= len(points.values)).any(axis=1)] = -1
    return distances


@kernel
def _list_neighbours(codes: Any, index: Any, half_distances: Any, half_bits: int, shells: int) -> Any:
    """Tables.first, last and neighbours (int32), for each code off the grid in the order of Grid.neighbours."""
    n_codes = index.size
    first = np.zeros(n_codes, i32)
    last = np.zeros(n_codes, i32)
    low_mask = (1 << half_bits) - 1
    distances = np.empty(codes.size, i32)
    found = np.empty(1 << 16, i32)
    n_found = 0
    for code in range(n_codes):
        from_low = half_distances[code & low_mask]
        from_high = half_distances[code >> half_bits]
        if index[code] >= 0 or from_low[0] < 0 or from_high[0] < 0:
            continue
        count = np.zeros(512, i32)
        for j in range(codes.size):
            distances[j] = from_low[codes[j] & low_mask] + from_high[codes[j] >> half_bits]
            count[distances[j]] += 1
        place = np.empty(512, i32)  # where the next point at a distance goes
        total = 0
        seen = 0
        reach = -1
        for distance in range(512):
            if count[distance] > 0 and seen < shells:
                place[distance] = n_found + total
                total += count[distance]
                seen += 1
                reach = distance
        padded = (total + 15) // 16 * 16
        while n_found + padded > found.size:
            found = np.concatenate((found, np.empty_like(found)))
        for j in range(codes.size):
            if distances[j] <= reach:
                found[place[distances[j]]] = codes[j]
                place[distances[j]] += 1
        found[n_found + total : n_found + padded] = found[n_found + total - 1]
        first[code] = n_found
        n_found += padded
        last[code] = n_found
    return first, last, found[:n_found]


@kernel
def to_grid(
    codes: Any, start: int, n: int, scales: Any, v: Any, w: Any, at: int, group: int, index: Any, first: Any, last: Any, neighbours: Any
) -> int:
    """reference.to_grid for n trials of one group: codes[start], codes[start + 1], ... are replaced by codes that are on the grid.

    The group's weights are v[at], v[at + 1], ... with weights w; trial t has the scale scales[t]. The rest is a `Tables`, taken apart (a call that
    passes it whole, thousands of times per super-block, would cost more than the search). Returns a bit set: the trials that were off the grid.
    """
    off_grid = 0
    for t in range(n):
        code = codes[start + t]
        if index[code] >= 0:
            continue
        off_grid |= 1 << t
        scale = scales[t]
        begin = first[code]
        end = last[code]
        candidates = load_u16(neighbours, 2 * begin)
        chosen = candidates
        position = lane_numbers()
        chosen_position = position
        best = splat(LARGEST)
        for k in range(begin, end, 16):
            candidates = load_u16(neighbours, 2 * k)
            if group == 4:
                distance = _distances(candidates, v, w, at, scale, 4, 3)
            else:
                distance = _distances(candidates, v, w, at, scale, 8, 2)
            better = distance < best
            best = where(better, distance, best)
            chosen = where(better, candidates, chosen)
            chosen_position = where(better, position, chosen_position)
            position = position + 16
        winners = mask_bits(best == smallest(best))
        if end - begin > 16 and winners & (winners - 1):  # several, perhaps of several vectors: the first in the list
            winners = mask_bits(chosen_position == smallest(where(best == smallest(best), chosen_position, 1 << 30)))
        codes[start + t] = lane(chosen, lowest_bit(winners))
    return off_grid


@kernel
def _distances(candidates: Any, v: Any, w: Any, at: int, scale: Any, group: int, level_bits: int) -> Any:
    """Sum of w * (scale * odd - v)**2 to 16 candidates."""
    distance = splat(f32(0))
    for i in range(group):
        difference = scale * odd(candidates, level_bits * i, level_bits) - v[at + i]
        distance = distance + w[at + i] * difference * difference
    return distance


@kernel
def odd(codes: Any, shift: int, level_bits: int) -> Any:
    """2 * level + 1 of the level at bit `shift` of each code, as floats."""
    return to_float((((codes >> shift) & ((1 << level_bits) - 1)) << 1) | 1)


# --- one super-block -----------------------------------------------------------------------------------------------------------------------------


@kernel
def new_work() -> Any:
    return Work(
        np.zeros(16, f32),
        np.zeros(64, i32),
        np.zeros(32, i32),
        np.empty(SIZE, f32),
        np.empty(SIZE, f32),
        np.empty(SIZE, f32),
        np.empty(_TRIALS, f32),
        np.empty(_TRIALS * 8, i32),
        np.empty(_TRIALS * 2, f32),
        np.empty(_TRIALS, i32),
        np.zeros(2 * SIZE, f32),
        np.empty(3 * 2 * SIZE, f32),
    )


@kernel
def mean_square(x: Any, first: int) -> Any:
    """Of the 256 weights from `first` on."""
    total = f32(0)
    for i in range(SIZE):
        total += x[first + i] * x[first + i]
    return total / f32(SIZE)


@kernel
def weigh_by_importance(x: Any, first: int, importance: Any, square: Any, work: Any) -> None:
    """Error weights importance * sqrt(square + x**2) of the super-block at x[first], whose importance is entry i % m for block i."""
    start = first % importance.size
    for i in range(0, SIZE, 16):
        v = load(x, first + i)
        store(work.w, i, load(importance, start + i) * vsqrt(square + v * v))


@kernel
def weigh_by_square(x: Any, first: int, extra: Any, work: Any) -> None:
    """Error weights extra + x**2."""
    for i in range(0, SIZE, 16):
        v = load(x, first + i)
        store(work.w, i, extra + v * v)


@kernel
def take_signs(x: Any, first: int, even: bool, work: Any) -> None:
    """Magnitudes to work.v, bytes of signs to work.signs; see reference.take_signs."""
    for i in range(0, SIZE, 16):
        v = load(x, first + i)
        positive = v >= f32(0)
        store(work.v, i, where(positive, v, -v))
        bits = mask_bits(~positive)
        work.signs[i // 8] = bits & 255
        work.signs[i // 8 + 1] = bits >> 8
    if even:
        for k in range(SIZE // 8):
            bits = work.signs[k]
            parity = bits ^ (bits >> 4)
            parity ^= parity >> 2
            parity ^= parity >> 1
            if parity & 1:
                cheapest = 0
                least = f32(0)
                for i in range(8):
                    u = x[first + 8 * k + i]
                    cost = work.w[8 * k + i] * u * u
                    if i == 0 or cost < least:
                        least = cost
                        cheapest = i
                work.v[8 * k + cheapest] = -work.v[8 * k + cheapest]
                bits ^= 1 << cheapest
            work.signs[k] = bits & 127


@kernel
def fit_super_block(x: Any, first: int, search: Any, table: Any, work: Any) -> Any:
    """reference.fit for all sub-blocks of the 256 weights at x[first], whose error weights are in work.w. Returns the largest scale."""
    take_signs(x, first, search.even_signs, work)
    for i in range(0, SIZE, 16):
        store(work.root_w, i, vsqrt(load(work.w, i)))
    if search.positive_fit:
        _fit_without_grid(work, search.highest + 2)
    largest = f32(0)
    for b in range(SIZE // search.sub_block):
        scale = _fit_sub_block(b, search, table, work)
        work.scales[b] = scale
        if scale > largest:
            largest = scale
    return largest


@kernel
def _fit_without_grid(work: Any, n_max: int) -> None:
    """fits.fit_positive for the 8 sub-blocks of 32; scales to work.scales."""
    for i in range(0, SIZE, 16):
        store(work.natural, i, load(work.v, i))
    transpose16(work.natural, 0, 32, work.lanes, 0)
    transpose16(work.natural, 16, 32, work.lanes, 16)
    for i in range(0, SIZE, 16):
        store(work.natural, i, load(work.w, i))
    transpose16(work.natural, 0, 32, work.lanes, 32)
    transpose16(work.natural, 16, 32, work.lanes, 48)
    store(work.scales, 0, fit_positive(work.lanes[:512], work.lanes[512:1024], work.lanes[1024:], 32, n_max))


@kernel
def _fit_sub_block(b: int, search: Any, table: Any, work: Any) -> Any:
    """Sub-block b: its codes to work.codes; returns its scale. Where all is tiny, codes and signs are 0."""
    start = b * search.sub_block
    n_groups = search.sub_block // search.group
    top = work.v[start]
    for i in range(1, search.sub_block):
        top = max(top, work.v[start + i])
    scale = top / search.top
    span = top
    if search.positive_fit:
        scale = work.scales[b]
        span = scale * f32(search.highest + 1)
    if top < search.tiny or (search.positive_fit and span <= f32(0)):
        work.codes[b * n_groups : (b + 1) * n_groups] = 0
        work.signs[start // 8 : (start + search.sub_block) // 8] = 0
        return f32(0)
    n_trials = 2 * search.reach + 1
    _try_scales(start, n_groups, n_trials, span, search, table, work)
    chosen = -1
    best = f32(0)
    for t in range(n_trials):
        sum_qx = work.trial_sums[t]
        sum_q2 = work.trial_sums[_TRIALS + t]
        if sum_q2 > f32(0) and sum_qx * sum_qx > best * sum_q2:
            scale = sum_qx / sum_q2
            best = scale * sum_qx
            chosen = t
    off_grid = 0 if search.refit == OFF_GRID else 1
    if chosen >= 0:
        off_grid = work.off_grid[chosen]
    for g in range(n_groups):
        work.codes[b * n_groups + g] = work.trial_codes[g * _TRIALS + chosen] if chosen >= 0 else 0
    if (off_grid != 0 or search.refit == ALWAYS) and scale > f32(0):
        scale = _refit(b, n_groups, scale, off_grid if search.refit == OFF_GRID else -1, search, table, work)
    if scale < f32(0):
        scale = -scale
        for k in range(start // 8, (start + search.sub_block) // 8):
            work.signs[k] = ~work.signs[k] & (127 if search.even_signs else 255)
    return scale


@kernel
def _try_scales(start: int, n_groups: int, n_trials: int, span: Any, search: Any, table: Any, work: Any) -> None:
    """All trials of a sub-block: trial_codes[group][trial], off_grid[trial] (a bit per group), trial_sums[0 or 1][trial]."""
    group = search.group
    v, w, codes, scales = work.v, work.w, work.trial_codes, work.trial_scales
    for t in range(0, _TRIALS, 16):
        store_i32(work.off_grid, t, splat(0))
    for t in range(0, n_trials, 16):
        inverse = (search.top + to_float(lane_numbers() + (t - search.reach)) * search.step) / span
        store(scales, t, f32(1) / inverse)
        for g in range(n_groups):
            code = splat(0)
            for i in range(group):
                level = clamp(nearest_int(f32(0.5) * (inverse * v[start + g * group + i] - f32(1))), 0, search.highest)
                code = code | (level << (search.level_bits * i))
            store_i32(codes, g * _TRIALS + t, code)
    for g in range(n_groups):
        off_grid = to_grid(
            codes, g * _TRIALS, n_trials, scales, v, work.root_w, start + g * group, group, table.index, table.first, table.last, table.neighbours
        )
        trials = (splat(off_grid) >> lane_numbers()) & 1
        store_i32(work.off_grid, 0, load_i32(work.off_grid, 0) | (trials << g))
        trials = (splat(off_grid >> 16) >> lane_numbers()) & 1
        store_i32(work.off_grid, 16, load_i32(work.off_grid, 16) | (trials << g))
    for t in range(0, n_trials, 16):
        sum_qx = splat(f32(0))
        sum_q2 = splat(f32(0))
        for g in range(n_groups):
            code = load_i32(codes, g * _TRIALS + t)
            for i in range(group):
                k = start + g * group + i
                q = odd(code, search.level_bits * i, search.level_bits)
                sum_qx = sum_qx + w[k] * v[k] * q
                sum_q2 = sum_q2 + w[k] * q * q
        store(work.trial_sums, t, sum_qx)
        store(work.trial_sums, _TRIALS + t, sum_q2)


@kernel
def _refit(b: int, n_groups: int, scale: Any, groups: int, search: Any, table: Any, work: Any) -> Any:
    """Look for the points of the groups in the bit set `groups` again with this scale; returns the least squares scale of the result."""
    v, w, codes = work.v, work.w, work.codes
    work.trial_scales[0] = scale
    inverse = f32(1) / scale
    mask = (1 << search.level_bits) - 1
    sum_qx = f32(0)
    sum_q2 = f32(0)
    for g in range(n_groups):
        at = b * search.sub_block + g * search.group
        place = b * n_groups + g
        if (groups >> g) & 1:
            code = 0
            for i in range(search.group):
                level = nearest_int_scalar(f32(0.5) * (inverse * v[at + i] - f32(1)))
                code |= max(0, min(search.highest, level)) << (search.level_bits * i)
            codes[place] = code
            to_grid(codes, place, 1, work.trial_scales, v, work.root_w, at, search.group, table.index, table.first, table.last, table.neighbours)
        code = codes[place]
        for i in range(search.group):
            q = f32((((code >> (search.level_bits * i)) & mask) << 1) | 1)
            sum_qx += w[at + i] * v[at + i] * q
            sum_q2 += w[at + i] * q * q
    return sum_qx / sum_q2 if sum_q2 > f32(0) else scale


@kernel
def pack_sub_scale(scale: Any, inverse: Any, highest: int) -> Any:
    """The level whose odd number is nearest to inverse * scale."""
    return max(0, min(highest, nearest_int_scalar(f32(0.5) * (inverse * scale - f32(1)))))
