"""The search of `gguflow.blocks.iq1_search` on lanes: 16 ends of the middle part at a time, then 16
neighbours at a time.

Which split is best depends on the order of comparison (each is compared with the best before it, rounded as
it is). So all are tried first, in any order; mostly one of them is so much better than the others that no
rounding can decide against it, and else they are compared one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguflow.kernels.grid_search import CODES, LARGEST, SCALES, SIZE, W, aligned_zeros, largest_of
from gguflow.kernels.lanes import (
    lane,
    lane_numbers,
    largest,
    load,
    load_i32,
    load_u16,
    lookup16,
    lowest_bit,
    mask_bits,
    smallest,
    splat,
    store,
    store_i32,
    to_float,
    total,
    vabs,
    where,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, Int, U8s

f32 = np.float32
i32 = np.int32

MOST_TRIALS = 104
"""51 vectors of splits with two choices of shifts for sub-blocks of 32, 10 with four choices for those of 16;
in fours.
"""

# Where things begin in `work` (float32) and `codes` (int32), besides W, SCALES and CODES, which are those of
# grid_search:
_SIZES = SCALES + 16  # magnitudes of a sub-block
_SUM_X = _SIZES + 32
"""Running sums of w * x over the sorted weights, for each half; room to read 16 beyond the last."""
_SUM_W = _SUM_X + 2 * 64
"""Those of w; NaN beyond the last, so that no split that does not exist beats one that does."""
_TRIED = _SUM_W + 2 * 64
"""For each trial of 16 splits: sums of w * x * value, then those of w * value**2; NaN where there is none."""
_WORK_SIZE = _TRIED + MOST_TRIALS * 32

SHIFTS = CODES + 64  # of each sub-block: bit h is set where the shift of half h is negative
_ORDER = SHIFTS + 16  # the sub-block's weights from the smallest to the largest
_RANKS = _ORDER + 32  # of each weight, its place in that order
_SPLITS = _RANKS + 32
"""Of each vector of splits of 32 weights, 64 * i1 + i2 of the first: the sorted weights i1 ... i2 - 1 are in
the middle.
"""
_CODES_SIZE = _SPLITS + 64

N_SPLITS_OF_16 = 17 * 18 // 2
_SPLITS_OF_16 = np.zeros((2, 160), i32)
"""i1 and i2 of every split of 16 weights, in order: ten vectors of each."""
_SPLITS_OF_16[:, :N_SPLITS_OF_16] = np.triu_indices(17)
_FIRST_OF_16, _LAST_OF_16 = _SPLITS_OF_16

# Within these limits no product of the comparison leaves the range of normal numbers:
LIGHTEST, HEAVIEST = f32(1e-9), f32(1e9)  # of sums of error weights
WORST, BEST = f32(1e-14), f32(1e12)  # of scores qx**2 / q2
MARGIN = f32(0.99999)  # of a score: a hundred times what rounding does to it

_PLUS = (f32(-0.875), f32(0.125), f32(1.125))
_MINUS = (f32(-1.125), f32(-0.125), f32(0.875))
# differences of neighbours' squares
_PLUS_SQUARES = (
    _PLUS[0] * _PLUS[0] - _PLUS[1] * _PLUS[1],
    _PLUS[1] * _PLUS[1] - _PLUS[2] * _PLUS[2],
)
_MINUS_SQUARES = (
    _MINUS[0] * _MINUS[0] - _MINUS[1] * _MINUS[1],
    _MINUS[1] * _MINUS[1] - _MINUS[2] * _MINUS[2],
)


def new_work() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The arrays `work` and `codes`."""
    work = aligned_zeros(_WORK_SIZE, f32)
    work[_SUM_W:] = np.nan
    return work, aligned_zeros(_CODES_SIZE, i32)


@kernel
def fit_super_block(
    x: F32s,
    first: int,
    size: int,
    halves: int,
    tiny: f32,
    starts: I32s,
    neighbours: U8s,
    work: F32s,
    codes: I32s,
) -> f32:
    """reference.fit for all sub-blocks of the 256 weights at x[first], whose error weights are in W.

    size, halves: of a sub-block (32 and 1, or 16 and 2), as literals: so they become constants of the
    compiled code.
    Codes of grid points to CODES, signs of shifts to SHIFTS, scales to SCALES. Returns the largest scale.
    """
    top = f32(0)
    for b in range(SIZE // size):
        scale = _fit_sub_block(x, first + b * size, b, size, halves, tiny, starts, neighbours, work, codes)
        work[SCALES + b] = scale
        if scale > top:
            top = scale
    return top


@kernel
def _fit_sub_block(
    x: F32s,
    at: int,
    b: int,
    size: int,
    halves: int,
    tiny: f32,
    starts: I32s,
    neighbours: U8s,
    work: F32s,
    codes: I32s,
) -> f32:
    n_groups = size // 8
    for i in range(0, size, 16):
        store(work, _SIZES + i, vabs(load(x, at + i)))
    scale = largest_of(work, _SIZES, size)
    found = -1
    if not scale < tiny:
        _sort(x, at, size, codes)
        _accumulate(x, at, W + b * size, size, halves, work, codes)
        n_trials = _try_splits(size, work, codes) if halves == 1 else _try_splits_of_halves(work)
        found, scale = _best_trial(n_trials, 2 * halves, size, halves, work)
    codes[SHIFTS + b] = 0
    if found < 0:
        codes[CODES + b * n_groups : CODES + (b + 1) * n_groups] = -1
        return f32(0)
    choice = found % (2 * halves)
    split = found // (2 * halves)
    if halves == 1:
        split = codes[_SPLITS + split // 16] + split % 16
    else:
        split = _FIRST_OF_16[split] * 64 + _LAST_OF_16[split]
    shifts = choice if halves == 1 else ((choice >> 1) | ((choice & 1) << 1))
    low, high = 0, 2
    if scale < f32(0):
        low, high = 2, 0
        scale = -scale
        shifts ^= (1 << halves) - 1
    codes[SHIFTS + b] = shifts
    for i in range(0, size, 16):
        rank = load_i32(codes, _RANKS + i)
        level = where(rank < split // 64, low, where(rank < split % 64, 1, splat(high)))
        level = level << ((lane_numbers() & 7) << 1)
        codes[CODES + b * n_groups + i // 8] = total(where(lane_numbers() < 8, level, 0))
        codes[CODES + b * n_groups + i // 8 + 1] = total(where(lane_numbers() < 8, 0, level))
    return _to_grid(x, at, b, scale, shifts, halves, starts, neighbours, work, codes)


@kernel
def _sort(x: F32s, at: int, size: int, codes: I32s) -> None:
    """The order of the weights, ascending, equal ones as they come: a weight's rank is the number of those
    before it.
    """
    for i in range(0, size, 16):
        v = load(x, at + i)
        number = lane_numbers() + i
        rank = splat(0)
        for j in range(size):
            other = splat(x[at + j])
            rank = where((other < v) | ((other == v) & (number > j)), rank + 1, rank)
        store_i32(codes, _RANKS + i, rank)
    for i in range(size):
        codes[_ORDER + codes[_RANKS + i]] = i


@kernel
def _accumulate(x: F32s, at: int, weights: int, size: int, halves: int, work: F32s, codes: I32s) -> None:
    """Running sums over the sorted weights, for each half over its own: entry j is the sum of the first j.
    weights: where in work.

    A weight of the other half adds zero, which changes no sum (none is -0).
    """
    for half in range(halves):
        sum_x = f32(0)
        sum_w = f32(0)
        for j in range(size):
            work[_SUM_X + 64 * half + j] = sum_x
            work[_SUM_W + 64 * half + j] = sum_w
            i = codes[_ORDER + j]
            w = work[weights + i]
            if halves == 2:
                w *= f32((i >> 3) == half)  # 1 or 0: a branch would be mispredicted half of the time
            sum_x += w * x[at + i]
            sum_w += w
        work[_SUM_X + 64 * half + size] = sum_x
        work[_SUM_W + 64 * half + size] = sum_w


@kernel
def _try_splits(size: int, work: F32s, codes: I32s) -> Int:
    """All splits, with either shift (choice 1 is the negative one), to TRIED and SPLITS. Returns how many
    trials there are: vectors times choices.
    """
    n = 0
    for i1 in range(size + 1):
        low_x = work[_SUM_X + i1]
        low_w = work[_SUM_W + i1]
        for i2 in range(i1, size + 1, 16):
            codes[_SPLITS + n // 2] = i1 * 64 + i2
            sum_x = load(work, _SUM_X + i2)
            sum_w = load(work, _SUM_W + i2)
            middle_x = sum_x - low_x
            middle_w = sum_w - low_w
            high_x = work[_SUM_X + size] - sum_x
            high_w = work[_SUM_W + size] - sum_w
            qx = low_x * _PLUS[0] + middle_x * _PLUS[1] + high_x * _PLUS[2]
            q2 = low_w * _PLUS[0] * _PLUS[0] + middle_w * _PLUS[1] * _PLUS[1] + high_w * _PLUS[2] * _PLUS[2]
            _store_trial(work, n, qx, q2)
            qx = low_x * _MINUS[0] + middle_x * _MINUS[1] + high_x * _MINUS[2]
            q2 = (
                low_w * _MINUS[0] * _MINUS[0]
                + middle_w * _MINUS[1] * _MINUS[1]
                + high_w * _MINUS[2] * _MINUS[2]
            )
            _store_trial(work, n + 1, qx, q2)
            n += 2
    return n


@kernel
def _try_splits_of_halves(work: F32s) -> Int:
    """As _try_splits, for 16 weights, with a shift for each half; choice: bit 1 where the first half's is
    negative, bit 0 where the second's is.
    """
    for n in range(0, N_SPLITS_OF_16, 16):
        i1 = load_i32(_FIRST_OF_16, n)
        i2 = load_i32(_LAST_OF_16, n)
        qx_plus, q2_plus, qx_minus, q2_minus = _half_sums(work, 0, i1, i2)
        other_qx_plus, other_q2_plus, other_qx_minus, other_q2_minus = _half_sums(work, 1, i1, i2)
        is_split = lane_numbers() < N_SPLITS_OF_16 - n
        q2_plus = where(is_split, q2_plus, f32(np.nan))
        q2_minus = where(is_split, q2_minus, f32(np.nan))
        _store_trial(work, n // 4, qx_plus + other_qx_plus, q2_plus + other_q2_plus)
        _store_trial(work, n // 4 + 1, qx_plus + other_qx_minus, q2_plus + other_q2_minus)
        _store_trial(work, n // 4 + 2, qx_minus + other_qx_plus, q2_minus + other_q2_plus)
        _store_trial(work, n // 4 + 3, qx_minus + other_qx_minus, q2_minus + other_q2_minus)
    return (N_SPLITS_OF_16 + 15) // 16 * 4


@kernel
def _store_trial(work: F32s, n: int, qx: F32x16, q2: F32x16) -> None:
    store(work, _TRIED + 32 * n, qx)
    store(work, _TRIED + 32 * n + 16, q2)


@kernel
def _half_sums(work: F32s, half: int, i1: I32x16, i2: I32x16) -> tuple[F32x16, F32x16, F32x16, F32x16]:
    """For lanes of splits of 16 weights: sums of w * x * value and w * value**2 over one half, with the
    positive shift and with the negative one.

    Neighbouring values differ by 1, so the sums collapse to those before i1 and before i2.
    """
    sums_x = _SUM_X + 64 * half
    sums_w = _SUM_W + 64 * half
    total_x = work[sums_x + 16]
    total_w = work[sums_w + 16]
    x1_x2 = _sum_before(work, sums_x, i1) + _sum_before(work, sums_x, i2)
    w1 = _sum_before(work, sums_w, i1)
    w2 = _sum_before(work, sums_w, i2)
    q2_plus = total_w * _PLUS[2] * _PLUS[2] + w1 * _PLUS_SQUARES[0] + w2 * _PLUS_SQUARES[1]
    q2_minus = total_w * _MINUS[2] * _MINUS[2] + w1 * _MINUS_SQUARES[0] + w2 * _MINUS_SQUARES[1]
    return total_x * _PLUS[2] - x1_x2, q2_plus, total_x * _MINUS[2] - x1_x2, q2_minus


@kernel
def _sum_before(work: F32s, sums: int, i: I32x16) -> F32x16:
    """Entry i of the 17 running sums at `sums`, of which the first is 0."""
    return where(i > 0, lookup16(load(work, sums + 1), i + -1), f32(0))


@kernel
def _best_trial(n_trials: int, n_choices: int, size: int, halves: int, work: F32s) -> tuple[Int, f32]:
    """The split and choice that all comparisons end with, and its scale. As (16 * vector + lane) * n_choices
    + choice; -1: none.
    """
    weight = work[_SUM_W + size]
    if halves == 2:
        weight += work[_SUM_W + 64 + size]
    if weight > LIGHTEST and weight < HEAVIEST:
        n, k = _clear_winner(n_trials, work)
        if n >= 0:
            found = (n // n_choices * 16 + k) * n_choices + n % n_choices
            place = _TRIED + 32 * n + k
            return found, work[place] / work[place + 16]
    return _take_turns(n_trials, n_choices, work)


@kernel
def _clear_winner(n_trials: int, work: F32s) -> tuple[Int, Int]:
    """The trial and the lane that all comparisons must end with; (-1, 0) where it takes them to find out.

    They compare by qx**2 > best * q2, best being (qx / q2) * qx of an earlier one. Some roundings cannot
    decide against a score qx**2 / q2 that is larger by MARGIN than all others. q2 lies between weight / 64
    and 81 / 64 of it. The highest score that is found first may itself be one that rounding preferred, a few
    times over, to a slightly higher one: that one then is not below the margin, and there is no clear winner.
    """
    none = splat(f32(0)), splat(f32(1))
    a, b, c, d = none, none, none, none  # four chains of comparisons share the processor
    for n in range(0, n_trials, 4):
        a = _higher(work, n, a)
        b = _higher(work, n + 1, b)
        c = _higher(work, n + 2, c)
        d = _higher(work, n + 3, d)
    a = _higher_of(*_higher_of(*a, *b), *_higher_of(*c, *d))
    limit = largest(a[0] / a[1])
    if not (limit > WORST and limit < BEST):
        return -1, 0
    limit = limit * MARGIN
    winner = -1
    lanes = 0
    count = 0
    for n in range(n_trials):
        qx = load(work, _TRIED + 32 * n)
        near = mask_bits(qx * qx > limit * load(work, _TRIED + 32 * n + 16))
        if near:
            winner = n
            lanes = near
            count += 1
    if count != 1 or lanes & (lanes - 1):
        return -1, 0
    return winner, int(lowest_bit(i32(lanes)))


@kernel
def _higher(work: F32s, n: int, top: tuple[F32x16, F32x16]) -> tuple[F32x16, F32x16]:
    """Per lane: (qx**2, q2) of trial n where its score is higher than that of `top`, else `top`."""
    qx = load(work, _TRIED + 32 * n)
    return _higher_of(qx * qx, load(work, _TRIED + 32 * n + 16), *top)


@kernel
def _higher_of(square: F32x16, q2: F32x16, top_square: F32x16, top_q2: F32x16) -> tuple[F32x16, F32x16]:
    is_higher = square * top_q2 > top_square * q2
    return where(is_higher, square, top_square), where(is_higher, q2, top_q2)


@kernel
def _take_turns(n_trials: int, n_choices: int, work: F32s) -> tuple[Int, f32]:
    """The splits and choices one after the other, each compared with the best before it. Results as
    _best_trial's.
    """
    found = -1
    best = -LARGEST
    scale = f32(0)
    for first in range(0, n_trials, n_choices):
        last = -1  # of these 16 splits, as n_choices * lane + choice
        while True:
            following = 1 << 20
            for k in range(n_choices):
                qx = load(work, _TRIED + 32 * (first + k))
                q2 = load(work, _TRIED + 32 * (first + k) + 16)
                is_later = (lane_numbers() * n_choices + k) > last
                bits = mask_bits((q2 > f32(0)) & (qx * qx > best * q2) & is_later)
                if bits:
                    following = min(following, n_choices * lowest_bit(bits) + k)
            if following == 1 << 20:
                break
            last = following
            place = _TRIED + 32 * (first + last % n_choices) + last // n_choices
            scale = work[place] / work[place + 16]
            best = scale * work[place]
            found = first * 16 + last
    return found, scale


@kernel
def _to_grid(
    x: F32s,
    at: int,
    b: int,
    scale: f32,
    shifts: Int,
    halves: int,
    starts: I32s,
    neighbours: U8s,
    work: F32s,
    codes: I32s,
) -> f32:
    """Move the codes in CODES to the grid; returns the scale, fitted again where a group was off the grid."""
    n_groups = 4 // halves
    weights = W + b * n_groups * 8
    was_off = False
    for g in range(n_groups):
        code = codes[CODES + b * n_groups + g]
        nearby, end = starts[code], starts[code + 1]
        if nearby < end:
            was_off = True
            base = base_value(shifts, g % halves)
            code = _nearest_neighbour(
                x, at + 8 * g, work, weights + 8 * g, scale, base, neighbours, nearby, end
            )
            codes[CODES + b * n_groups + g] = code
    if not was_off:
        return scale
    sum_qx = f32(0)
    sum_q2 = f32(0)
    for g in range(n_groups):
        base = base_value(shifts, g % halves)
        code = codes[CODES + b * n_groups + g]
        for i in range(8):
            q = f32((code >> (2 * i)) & 3) + base
            w = work[weights + 8 * g + i]
            sum_qx += w * q * x[at + 8 * g + i]
            sum_q2 += w * q * q
    return sum_qx / sum_q2 if sum_qx > f32(0) and sum_q2 > f32(0) else scale


@kernel
def base_value(shifts: Int, half: int) -> f32:
    """What level 0 stands for; the next levels are one more each."""
    return f32(-1.125) if (shifts >> half) & 1 else f32(-0.875)


@kernel
def _nearest_neighbour(
    x: F32s, at: int, work: F32s, weights: int, scale: f32, base: f32, neighbours: U8s, first: Int, last: Int
) -> Int:
    """The code of the first of the nearest neighbours, which are numbers first ... last - 1; of the first of
    all, where no distance is finite.
    """
    # of each level, four times over: a lookup may leave in place what is above the two bits
    value = scale * (to_float(lane_numbers() & 3) + base)
    cost_0 = _level_costs(x, at, work, weights, value)
    cost_1 = _level_costs(x, at + 1, work, weights + 1, value)
    cost_2 = _level_costs(x, at + 2, work, weights + 2, value)
    cost_3 = _level_costs(x, at + 3, work, weights + 3, value)
    cost_4 = _level_costs(x, at + 4, work, weights + 4, value)
    cost_5 = _level_costs(x, at + 5, work, weights + 5, value)
    cost_6 = _level_costs(x, at + 6, work, weights + 6, value)
    cost_7 = _level_costs(x, at + 7, work, weights + 7, value)
    best = splat(LARGEST)
    nearest = splat(lane(load_u16(neighbours, 2 * first), 0))
    number = lane_numbers()
    nearest_number = number
    for k in range(first, last, 16):
        code = load_u16(neighbours, 2 * k)
        distance = lookup16(cost_0, code)
        distance = distance + lookup16(cost_1, code >> 2)
        distance = distance + lookup16(cost_2, code >> 4)
        distance = distance + lookup16(cost_3, code >> 6)
        distance = distance + lookup16(cost_4, code >> 8)
        distance = distance + lookup16(cost_5, code >> 10)
        distance = distance + lookup16(cost_6, code >> 12)
        distance = distance + lookup16(cost_7, code >> 14)
        better = (distance < best) & (number < last - first)
        best = where(better, distance, best)
        nearest = where(better, code, nearest)
        nearest_number = where(better, number, nearest_number)
        number = number + 16
    winners = best == smallest(best)
    earliest = smallest(where(winners, nearest_number, 1 << 20))
    return lane(nearest, lowest_bit(mask_bits(winners & (nearest_number == earliest))))


@kernel
def _level_costs(x: F32s, i: int, work: F32s, weight: int, value: F32x16) -> F32x16:
    """What each level of weight x[i] adds to a distance."""
    difference = value - x[np.uint64(i)]
    return work[np.uint64(weight)] * difference * difference
