"""The search of `gguflow.blocks.grid_search` on lanes, a trial scale per lane: 13, 19 or 31 of them, each
with the scalar order of sums.

What is slow in ggml is the walk over the neighbours of a combination of levels that is not on the grid. Here
what a level costs a weight is computed once per trial; the distance to a neighbour is then 8 (or 4) additions
for 16 trials. As trial scales are close together, most trials of a group have the same combination, and walk
together.

The lists of neighbours are derived from the grid at first use (`tables`): ggml's take seconds, these some
hundredths of a second.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import grid_search as reference
from gguflow.blocks.grids import Grid, grid
from gguflow.kernels.bits import nearest_int, nearest_int_scalar
from gguflow.kernels.fits import clamp, fit_positive
from gguflow.kernels.lanes import (
    lane,
    lane_numbers,
    largest,
    load,
    lowest_bit,
    mask_bits,
    splat,
    store,
    store_i32,
    to_float,
    transpose16,
    unowned,
    vsqrt,
    where,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, Int, U8s, U16s

f32 = np.float32
i32 = np.int32

SIZE = 256
LARGEST = np.finfo(f32).max
OFF_GRID, ALL, ALWAYS = 0, 1, 2


class Tables(NamedTuple):
    """A grid, ready to be searched. A code is a combination of levels, packed as `Grid.codes`.

    point: int32[codes], the number of the grid point with this code, or -1.
    starts: int32[codes + 1], code c has neighbours starts[c] ... starts[c + 1] - 1; none where it is on the
        grid.
    neighbours: uint16, codes of grid points.

    Between kernels the arrays go one by one: a tuple of arrays takes part in the counting of references at
    every call, and the search is 3 to 5 % slower for it.
    """

    point: I32s
    starts: I32s
    neighbours: U16s


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


# The search of a super-block leaves its results, and keeps its scratch, in two arrays: a float32 `work` and
# an int32 `codes` (a tuple of arrays would have its members' reference counts changed all the time). Where
# things begin:
V = 0  # 256 magnitudes
W = V + 256  # 256 error weights
ROOT_W = W + 256  # their roots
SCALES = ROOT_W + 256  # of up to 16 sub-blocks
_SUMS = SCALES + 16  # of up to 32 trials, twice
_COSTS = _SUMS + 64  # of 8 levels of 4 weights (or 3 of 8), for 16 trials
_LANES = _COSTS + 512  # four times 16 lanes of 32 weights
_WORK_SIZE = _LANES + 4 * 512

CODES = 0  # of up to 64 groups, on the grid
SIGNS = CODES + 64  # a byte for each 8 weights
_OFF_GRID = SIGNS + 32  # of up to 32 trials, a bit set of groups
_TRIAL_CODES = _OFF_GRID + 32  # of 8 groups in up to 32 trials
_CODES_SIZE = _TRIAL_CODES + 8 * 32


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


# --- neighbours


@functools.cache
def tables(name: str) -> Tables:
    """The search structure of a grid, built once per process."""
    points = grid(name)
    half_bits = points.group * points.level_bits // 2
    index = np.full(1 << 2 * half_bits, -1, np.int32)
    index[points.codes] = np.arange(len(points.codes))
    starts, neighbours = _list_neighbours(
        points.codes, index, _half_distances(points), half_bits, points.shells
    )
    whole_vectors = np.append(neighbours, np.zeros(15, np.uint16))
    return Tables(index, starts, whole_vectors)


def _half_distances(points: Grid) -> NDArray[np.int32]:
    """int32[m, m]: the squared distance between two halves of a code; -1 from a half with a level that does
    not exist.
    """
    codes = np.arange(1 << points.group * points.level_bits // 2)
    levels = points.unpack(codes)[:, : points.group // 2].astype(np.int32)
    distances: NDArray[np.int32] = ((levels[:, None] - levels[None]) ** 2).sum(axis=2).astype(np.int32)
    distances[(levels >= len(points.values)).any(axis=1)] = -1
    return distances


@kernel
def _list_neighbours(
    codes: U16s, index: I32s, half_distances: I32s, half_bits: int, shells: int
) -> tuple[I32s, U16s]:
    """Tables.starts and neighbours (uint16); those of a code are in the order of Grid.neighbours."""
    n_codes = index.size
    starts = np.zeros(n_codes + 1, i32)
    low_mask = (1 << half_bits) - 1
    distances = np.empty(codes.size, i32)
    found = np.empty(1 << 16, np.uint16)
    n_found = 0
    for code in range(n_codes):
        starts[code] = n_found
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
        while n_found + total > found.size:
            found = np.concatenate((found, np.empty_like(found)))
        for j in range(codes.size):
            if distances[j] <= reach:
                found[place[distances[j]]] = codes[j]
                place[distances[j]] += 1
        n_found += total
    starts[n_codes] = n_found
    return starts, found[:n_found]


@kernel
def to_grid(
    codes: I32x16,
    active: Int,
    scale: F32x16,
    work: F32s,
    at: Int,
    group: int,
    level_bits: int,
    starts: I32s,
    neighbours: U16s,
) -> tuple[I32x16, Int]:
    """reference.to_grid on lanes: a group, whose weights are work[V + at], ..., in 16 trials.

    codes, scale: of each trial.
    active: bit set of the trials that matter.
    Returns codes on the grid, and the bit set of those that had been off.
    """
    off_grid = 0
    while active:
        code = lane(codes, lowest_bit(i32(active)))
        same = codes == code
        active &= ~mask_bits(same)
        first, last = starts[code], starts[code + 1]
        if first == last:
            continue
        if off_grid == 0:
            _level_costs(work, at, scale, group, level_bits)
        off_grid |= mask_bits(same)
        nearest = _nearest(work, first, last, neighbours, group, level_bits)
        codes = where(same, nearest, codes)
    return codes, off_grid


@kernel
def _level_costs(work: F32s, at: Int, scale: F32x16, group: int, level_bits: int) -> None:
    """What each level of each weight adds to a distance, in 16 trials."""
    n_levels = 8 if level_bits == 3 else 3
    for i in range(group):
        v = splat(work[V + at + i])
        w = splat(work[ROOT_W + at + i])
        for level in range(n_levels):
            difference = scale * f32(2 * level + 1) - v
            store(work, _COSTS + 16 * (i * n_levels + level), w * difference * difference)


@kernel
def _nearest(work: F32s, first: Int, last: Int, neighbours: U16s, group: int, level_bits: int) -> I32x16:
    """In each trial, the code of the first of the nearest neighbours."""
    n_levels = 8 if level_bits == 3 else 3
    best = splat(LARGEST)
    nearest = splat(neighbours[first])
    for k in range(first, last):
        code = int(neighbours[np.uint64(k)])
        distance = load(work, _COSTS + 16 * (code & ((1 << level_bits) - 1)))
        for i in range(1, group):
            level = (code >> (level_bits * i)) & ((1 << level_bits) - 1)
            distance = distance + load(work, _COSTS + 16 * (n_levels * i + level))
        better = distance < best
        best = where(better, distance, best)
        nearest = where(better, code, nearest)
    return nearest


@kernel
def odd(codes: I32x16, shift: int, level_bits: int) -> F32x16:
    """2 * level + 1 of the level at bit `shift` of each code, as floats."""
    return to_float((((codes >> shift) & ((1 << level_bits) - 1)) << 1) | 1)


# --- one super-block


@kernel
def take_unowned(
    x: F32s, importance: F32s, table: Tables, work: F32s, codes: I32s, out: U8s
) -> tuple[F32s, F32s, Tables, F32s, I32s, U8s]:
    """The arrays of an encoder without a share in their ownership; see lanes.unowned."""
    table = Tables(unowned(table.point), unowned(table.starts), unowned(table.neighbours))
    return unowned(x), unowned(importance), table, unowned(work), unowned(codes), unowned(out)


def aligned_zeros(n: int, dtype: type) -> NDArray[Any]:
    """n zeros of four bytes that begin where a cache line does, so that no vector at a multiple of 16 crosses
    two.
    """
    array: NDArray[Any] = np.zeros(n + 16, dtype)
    first = -(array.ctypes.data // 4) % 16
    return array[first : first + n]


def new_work() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The arrays `work` and `codes`."""
    return aligned_zeros(_WORK_SIZE, f32), aligned_zeros(_CODES_SIZE, i32)


@kernel
def mean_square(x: F32s, first: int) -> f32:
    """Of the 256 weights from `first` on."""
    total = f32(0)
    for i in range(SIZE):
        total += x[first + i] * x[first + i]
    return total / f32(SIZE)


@kernel
def weigh(x: F32s, first: int, importance: F32s, weighted: bool, extra: f32, work: F32s) -> None:
    """Error weights of the super-block at x[first], to W; `square` is twice the mean of its squares.

    weighted: whether there is importance; the weights are then importance * sqrt(square + x**2).
    extra: without importance they are extra * square + x**2.
    """
    if weighted:
        weigh_by_importance(x, first, importance, f32(2) * mean_square(x, first), work)
    elif extra > f32(0):
        weigh_by_square(x, first, extra * (f32(2) * mean_square(x, first)), work)
    else:  # a mean square that overflowed would make NaN of 0 times it
        weigh_by_square(x, first, f32(0), work)


@kernel
def weigh_by_importance(x: F32s, first: int, importance: F32s, square: f32, work: F32s) -> None:
    """Error weights importance * sqrt(square + x**2) of the super-block at x[first], whose importance is
    entry i % m for block i.
    """
    start = first % importance.size
    for i in range(0, SIZE, 16):
        v = load(x, first + i)
        store(work, W + i, load(importance, start + i) * vsqrt(square + v * v))


@kernel
def weigh_by_square(x: F32s, first: int, extra: f32, work: F32s) -> None:
    """Error weights extra + x**2."""
    for i in range(0, SIZE, 16):
        v = load(x, first + i)
        store(work, W + i, extra + v * v)


@kernel
def take_signs(x: F32s, first: int, even: bool, work: F32s, codes: I32s) -> None:
    """Magnitudes to V, bytes of signs to SIGNS; see reference.take_signs."""
    for i in range(0, SIZE, 16):
        v = load(x, first + i)
        positive = v >= f32(0)
        store(work, V + i, where(positive, v, -v))
        bits = mask_bits(~positive)
        codes[SIGNS + i // 8] = bits & 255
        codes[SIGNS + i // 8 + 1] = bits >> 8
    if even:
        for k in range(SIZE // 8):
            bits = codes[SIGNS + k]
            parity = bits ^ (bits >> 4)
            parity ^= parity >> 2
            parity ^= parity >> 1
            if parity & 1:
                cheapest = _cheapest_sign(x, first, work, 8 * k)
                work[V + cheapest] = -work[V + cheapest]
                bits ^= 1 << (cheapest & 7)
            codes[SIGNS + k] = bits & 127


@kernel
def _cheapest_sign(x: F32s, first: int, work: F32s, start: int) -> Int:
    """Of the 8 weights at `start`, the first with the smallest w * x**2."""
    cheapest = start
    v = x[first + start]
    least = work[W + start] * v * v
    for i in range(start + 1, start + 8):
        v = x[first + i]
        cost = work[W + i] * v * v
        if cost < least:
            least = cost
            cheapest = i
    return cheapest


@kernel
def fit_super_block(
    x: F32s, first: int, group: int, level_bits: int, search: Search, table: Tables, work: F32s, codes: I32s
) -> f32:
    """reference.fit for all sub-blocks of the 256 weights at x[first], whose error weights are in W. Returns
    the largest scale.

    group, level_bits: those of the grid, as literals: so they become constants of the compiled code.
    """
    take_signs(x, first, search.even_signs, work, codes)
    for i in range(0, SIZE, 16):
        store(work, ROOT_W + i, vsqrt(load(work, W + i)))
    if search.positive_fit:
        _fit_without_grid(work, search.highest + 2)
    largest = f32(0)
    for b in range(SIZE // search.sub_block):
        scale = _fit_sub_block(b, group, level_bits, search, table.starts, table.neighbours, work, codes)
        work[SCALES + b] = scale
        if scale > largest:
            largest = scale
    return largest


@kernel
def _fit_without_grid(work: F32s, n_max: int) -> None:
    """fits.fit_positive for the 8 sub-blocks of 32; their scales to SCALES."""
    natural = work[_LANES : _LANES + 512]
    x = work[_LANES + 512 : _LANES + 1024]
    w = work[_LANES + 1024 : _LANES + 1536]
    _to_lanes(work, V, natural, x)
    _to_lanes(work, W, natural, w)
    store(work, SCALES, fit_positive(x, w, work[_LANES + 1536 :], 32, n_max))


@kernel
def _to_lanes(work: F32s, start: int, natural: F32s, lanes: F32s) -> None:
    """8 runs of 32 to the first 8 lanes; the others are those of zeros. natural: scratch, float32[512]."""
    for i in range(0, SIZE, 16):
        store(natural, i, load(work, start + i))
        store(natural, SIZE + i, splat(f32(0)))
    transpose16(natural, 0, 32, lanes, 0)
    transpose16(natural, 16, 32, lanes, 16)


@kernel
def _fit_sub_block(
    b: int,
    group: int,
    level_bits: int,
    search: Search,
    starts: I32s,
    neighbours: U16s,
    work: F32s,
    codes: I32s,
) -> f32:
    """Sub-block b: its codes to CODES; returns its scale. Where all is tiny, codes and signs are 0."""
    start = b * search.sub_block
    n_groups = search.sub_block // group
    mine = CODES + b * n_groups
    top = largest_of(work, V + start, search.sub_block)
    scale = top / search.top
    span = top
    if search.positive_fit:
        scale = work[SCALES + b]
        span = scale * f32(search.highest + 1)
    if top < search.tiny or (search.positive_fit and span <= f32(0)):
        codes[mine : mine + n_groups] = 0
        codes[SIGNS + start // 8 : SIGNS + (start + search.sub_block) // 8] = 0
        return f32(0)
    n_trials = 2 * search.reach + 1
    for t in range(0, n_trials, 16):
        _try_scales(t, span, start, group, level_bits, search, starts, neighbours, work, codes)
    chosen = -1
    best = f32(0)
    for t in range(n_trials):
        sum_qx = work[_SUMS + t]
        sum_q2 = work[_SUMS + 32 + t]
        if sum_q2 > f32(0) and sum_qx * sum_qx > best * sum_q2:
            scale = sum_qx / sum_q2
            best = scale * sum_qx
            chosen = t
    again = 0 if search.refit == OFF_GRID else -1
    if chosen >= 0:
        off_grid = codes[_OFF_GRID + chosen]
        again = -1 if search.refit == ALWAYS or (search.refit == ALL and off_grid != 0) else off_grid
    for g in range(n_groups):
        codes[mine + g] = codes[_TRIAL_CODES + g * 32 + chosen] if chosen >= 0 else 0
    if again != 0 and scale > f32(0):
        scale = _refit(b, scale, again, group, level_bits, search, starts, neighbours, work, codes)
    if scale < f32(0):
        scale = -scale
        for k in range(SIGNS + start // 8, SIGNS + (start + search.sub_block) // 8):
            codes[k] = ~codes[k] & (127 if search.even_signs else 255)
    return scale


@kernel
def largest_of(x: F32s, start: int, n: int) -> f32:
    """The largest of n elements of x, n a multiple of 16."""
    top = load(x, start)
    for i in range(16, n, 16):
        v = load(x, start + i)
        top = where(v > top, v, top)
    return largest(top)


@kernel
def _try_scales(
    t: int,
    span: f32,
    start: int,
    group: int,
    level_bits: int,
    search: Search,
    starts: I32s,
    neighbours: U16s,
    work: F32s,
    codes: I32s,
) -> None:
    """Trials t, t + 1, ... (at most 16) of the sub-block at work[V + start]: the codes of its groups, which
    of them were off the grid, and the sums that judge a trial.
    """
    n_groups = search.sub_block // group
    n_trials = min(16, 2 * search.reach + 1 - t)
    inverse = (search.top + to_float(lane_numbers() + (t - search.reach)) * search.step) / span
    scale = f32(1) / inverse
    sum_qx = splat(f32(0))
    sum_q2 = splat(f32(0))
    off_grid = splat(0)
    for g in range(n_groups):
        at = start + g * group
        code = splat(0)
        for i in range(group):
            level = clamp(nearest_int(f32(0.5) * (inverse * work[V + at + i] - f32(1))), 0, search.highest)
            code = code | (level << (level_bits * i))
        code, was_off = to_grid(
            code, (1 << n_trials) - 1, scale, work, at, group, level_bits, starts, neighbours
        )
        store_i32(codes, _TRIAL_CODES + g * 32 + t, code)
        off_grid = off_grid | (((splat(was_off) >> lane_numbers()) & 1) << g)
        for i in range(group):
            w = work[W + at + i]
            q = odd(code, level_bits * i, level_bits)
            sum_qx = sum_qx + w * work[V + at + i] * q
            sum_q2 = sum_q2 + w * q * q
    store(work, _SUMS + t, sum_qx)
    store(work, _SUMS + 32 + t, sum_q2)
    store_i32(codes, _OFF_GRID + t, off_grid)


@kernel
def _refit(
    b: int,
    scale: f32,
    again: int,
    group: int,
    level_bits: int,
    search: Search,
    starts: I32s,
    neighbours: U16s,
    work: F32s,
    codes: I32s,
) -> f32:
    """Look for the points of those groups of sub-block b that are in the bit set `again` once more, with this
    scale; returns the least squares scale of the result.
    """
    start = b * search.sub_block
    n_groups = search.sub_block // group
    mine = CODES + b * n_groups
    inverse = f32(1) / scale
    mask = (1 << level_bits) - 1
    sum_qx = f32(0)
    sum_q2 = f32(0)
    for g in range(n_groups):
        at = start + g * group
        if (again >> g) & 1:
            code = 0
            for i in range(group):
                level = nearest_int_scalar(f32(0.5) * (inverse * work[V + at + i] - f32(1)))
                code |= max(0, min(search.highest, level)) << (level_bits * i)
            on_grid, _ = to_grid(
                splat(code), 1, splat(scale), work, at, group, level_bits, starts, neighbours
            )
            codes[mine + g] = lane(on_grid, 0)
        code = codes[mine + g]
        for i in range(group):
            q = f32((((code >> (level_bits * i)) & mask) << 1) | 1)
            sum_qx += work[W + at + i] * work[V + at + i] * q
            sum_q2 += work[W + at + i] * q * q
    return sum_qx / sum_q2 if sum_q2 > f32(0) else scale


@kernel
def pack_sub_scale(scale: f32, inverse: f32, highest: int) -> Int:
    """The level whose odd number is nearest to inverse * scale."""
    return max(0, min(highest, nearest_int_scalar(f32(0.5) * (inverse * scale - f32(1)))))
