"""The search of `gguflow.blocks.ternary_search` on lanes: 16 ends of the middle part at a time, then 16 neighbours at a time.

Which split is best depends on the order of comparison (each is compared with the best before it, rounded as it is). So a vector of splits is first
asked whether any would beat the best so far; only then they are taken one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.kernels.grid_search import CODES, LARGEST, SCALES, SIZE, W, aligned_zeros, largest_of
from gguflow.kernels.policy import kernel
from gguflow.lanes import (
    lane,
    lane_numbers,
    largest,
    load,
    load_u16,
    lowest_bit,
    mask_bits,
    smallest,
    splat,
    store,
    store_i32,
    to_float,
    vabs,
    where,
)

f32 = np.float32
i32 = np.int32

# Where things begin in `work` (float32) and `codes` (int32), besides W, SCALES and CODES, which are those of grid_search:
_SIZES = SCALES + 16  # magnitudes of a sub-block
_SUM_X = _SIZES + 32  # running sums of w * x over the sorted weights, for each half; room to read 16 beyond the last
_SUM_W = _SUM_X + 2 * 64  # of w
_TRIED = _SUM_W + 2 * 64  # sums of w * x * value for 16 splits and up to 4 choices of shifts, then those of w * value**2
_WORK_SIZE = _TRIED + 2 * 4 * 16

SHIFTS = CODES + 64  # of each sub-block: bit h is set where the shift of half h is negative
_ORDER = SHIFTS + 16  # the sub-block's weights from the smallest to the largest
_LEVELS = _ORDER + 32
_CODES_SIZE = _LEVELS + 32

_PLUS = (f32(-0.875), f32(0.125), f32(1.125))
_MINUS = (f32(-1.125), f32(-0.125), f32(0.875))


def new_work() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The arrays `work` and `codes`."""
    return aligned_zeros(_WORK_SIZE, f32), aligned_zeros(_CODES_SIZE, i32)


@kernel
def fit_super_block(
    x: Any, first: int, size: int, halves: int, tiny: Any, index: Any, starts: Any, ends: Any, neighbours: Any, work: Any, codes: Any
) -> Any:
    """reference.fit for all sub-blocks of the 256 weights at x[first], whose error weights are in W.

    size, halves: of a sub-block (32 and 1, or 16 and 2), as literals: so they become constants of the compiled code.
    Codes of grid points to CODES, signs of shifts to SHIFTS, scales to SCALES. Returns the largest scale.
    """
    top = f32(0)
    for b in range(SIZE // size):
        scale = _fit_sub_block(x, first + b * size, b, size, halves, tiny, index, starts, ends, neighbours, work, codes)
        work[SCALES + b] = scale
        if scale > top:
            top = scale
    return top


@kernel
def _fit_sub_block(
    x: Any, at: int, b: int, size: int, halves: int, tiny: Any, index: Any, starts: Any, ends: Any, neighbours: Any, work: Any, codes: Any
) -> Any:
    n_groups = size // 8
    for i in range(0, size, 16):
        store(work, _SIZES + i, vabs(load(x, at + i)))
    scale = largest_of(work, _SIZES, size)
    found = -1
    choice = 0
    if not scale < tiny:
        _sort(x, at, size, codes)
        _accumulate(x, at, W + b * size, size, halves, work, codes)
        if halves == 1:
            found, scale = _best_split(size, work)
            choice = found & 1
            found >>= 1
        else:
            found, scale = _best_split_of_halves(size, work)
            choice = found & 3
            found >>= 2
    codes[SHIFTS + b] = 0
    if found < 0:
        codes[CODES + b * n_groups : CODES + (b + 1) * n_groups] = -1
        return f32(0)
    shifts = choice if halves == 1 else ((choice >> 1) | ((choice & 1) << 1))
    low, middle, high = 0, 1, 2
    if scale < f32(0):
        low, high = 2, 0
        scale = -scale
        shifts ^= (1 << halves) - 1
    codes[SHIFTS + b] = shifts
    i1 = found // 64
    i2 = found % 64
    for j in range(size):
        codes[_LEVELS + codes[_ORDER + j]] = low if j < i1 else middle if j < i2 else high
    return _to_grid(x, at, b, n_groups, scale, shifts, halves, index, starts, ends, neighbours, work, codes)


@kernel
def _sort(x: Any, at: int, size: int, codes: Any) -> None:
    """The order of the weights, ascending, equal ones as they come: a weight's rank is the number of those before it."""
    for i in range(0, size, 16):
        v = load(x, at + i)
        number = lane_numbers() + i
        rank = splat(0)
        for j in range(size):
            other = splat(x[at + j])
            rank = where((other < v) | ((other == v) & (number > j)), rank + 1, rank)
        store_i32(codes, _LEVELS + i, rank)
    for i in range(size):
        codes[_ORDER + codes[_LEVELS + i]] = i


@kernel
def _accumulate(x: Any, at: int, weights: int, size: int, halves: int, work: Any, codes: Any) -> None:
    """Running sums over the sorted weights, for each half over its own: entry j is the sum of the first j. weights: where in work.

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
def _best_split(size: int, work: Any) -> Any:
    """((i1 * 64 + i2) * 2 + choice, scale): weights i1 ... i2 - 1 of the sorted are in the middle; choice 1 is the negative shift. -1: none."""
    found = -1
    best = -LARGEST
    scale = f32(0)
    for i1 in range(size + 1):
        low_x = work[_SUM_X + i1]
        low_w = work[_SUM_W + i1]
        for i2 in range(i1, size + 1, 16):
            sum_x = load(work, _SUM_X + i2)
            sum_w = load(work, _SUM_W + i2)
            middle_x = sum_x - low_x
            middle_w = sum_w - low_w
            high_x = work[_SUM_X + size] - sum_x
            high_w = work[_SUM_W + size] - sum_w
            valid = (lane_numbers() + i2) <= size
            qx_plus = low_x * _PLUS[0] + middle_x * _PLUS[1] + high_x * _PLUS[2]
            q2_plus = low_w * _PLUS[0] * _PLUS[0] + middle_w * _PLUS[1] * _PLUS[1] + high_w * _PLUS[2] * _PLUS[2]
            qx_minus = low_x * _MINUS[0] + middle_x * _MINUS[1] + high_x * _MINUS[2]
            q2_minus = low_w * _MINUS[0] * _MINUS[0] + middle_w * _MINUS[1] * _MINUS[1] + high_w * _MINUS[2] * _MINUS[2]
            hits = _beats(qx_plus, q2_plus, best) | _beats(qx_minus, q2_minus, best)
            if mask_bits(hits & valid):
                store(work, _TRIED, qx_plus)
                store(work, _TRIED + 16, qx_minus)
                store(work, _TRIED + 64, q2_plus)
                store(work, _TRIED + 80, q2_minus)
                chosen, best, scale = _take_turns(work, 2, mask_bits(valid), best, scale)
                if chosen >= 0:
                    found = (i1 * 64 + i2) * 2 + chosen
    return found, scale


@kernel
def _best_split_of_halves(size: int, work: Any) -> Any:
    """As _best_split, with a shift for each half; choice: bit 1 is set where the first half's is negative, bit 0 where the second's is."""
    found = -1
    best = -LARGEST
    scale = f32(0)
    plus_first = _PLUS[0] * _PLUS[0] - _PLUS[1] * _PLUS[1]
    plus_second = _PLUS[1] * _PLUS[1] - _PLUS[2] * _PLUS[2]
    minus_first = _MINUS[0] * _MINUS[0] - _MINUS[1] * _MINUS[1]
    minus_second = _MINUS[1] * _MINUS[1] - _MINUS[2] * _MINUS[2]
    for i1 in range(size + 1):
        for i2 in range(i1, size + 1, 16):
            valid = (lane_numbers() + i2) <= size
            qx_plus, q2_plus = _half_sums(work, 0, size, i1, i2, _PLUS[2], plus_first, plus_second)
            qx_minus, q2_minus = _half_sums(work, 0, size, i1, i2, _MINUS[2], minus_first, minus_second)
            other_qx_plus, other_q2_plus = _half_sums(work, 1, size, i1, i2, _PLUS[2], plus_first, plus_second)
            other_qx_minus, other_q2_minus = _half_sums(work, 1, size, i1, i2, _MINUS[2], minus_first, minus_second)
            hits = _beats(qx_plus + other_qx_plus, q2_plus + other_q2_plus, best)
            hits = hits | _beats(qx_plus + other_qx_minus, q2_plus + other_q2_minus, best)
            hits = hits | _beats(qx_minus + other_qx_plus, q2_minus + other_q2_plus, best)
            hits = hits | _beats(qx_minus + other_qx_minus, q2_minus + other_q2_minus, best)
            if mask_bits(hits & valid):
                store(work, _TRIED, qx_plus + other_qx_plus)
                store(work, _TRIED + 16, qx_plus + other_qx_minus)
                store(work, _TRIED + 32, qx_minus + other_qx_plus)
                store(work, _TRIED + 48, qx_minus + other_qx_minus)
                store(work, _TRIED + 64, q2_plus + other_q2_plus)
                store(work, _TRIED + 80, q2_plus + other_q2_minus)
                store(work, _TRIED + 96, q2_minus + other_q2_plus)
                store(work, _TRIED + 112, q2_minus + other_q2_minus)
                chosen, best, scale = _take_turns(work, 4, mask_bits(valid), best, scale)
                if chosen >= 0:
                    found = (i1 * 64 + i2) * 4 + chosen
    return found, scale


@kernel
def _half_sums(work: Any, half: int, size: int, i1: int, i2: int, top: Any, first: Any, second: Any) -> Any:
    """Sums of w * x * value and w * value**2 over one half. top: the highest value; first, second: differences of squares of neighbouring values."""
    sums_x = _SUM_X + 64 * half
    sums_w = _SUM_W + 64 * half
    qx = work[sums_x + size] * top - (work[sums_x + i1] + load(work, sums_x + i2))
    q2 = work[sums_w + size] * top * top + work[sums_w + i1] * first + load(work, sums_w + i2) * second
    return qx, q2


@kernel
def _beats(qx: Any, q2: Any, best: Any) -> Any:
    return (q2 > f32(0)) & (qx * qx > best * q2)


@kernel
def _take_turns(work: Any, n_choices: int, valid: Any, best: Any, scale: Any) -> Any:
    """The splits and choices in TRIED one after the other. Returns the last that was better, as n_choices * lane + choice, or -1; best; scale."""
    chosen = _clear_winner(work, n_choices, valid)
    if chosen >= 0:
        place = _TRIED + 16 * (chosen % n_choices) + chosen // n_choices
        scale = work[place] / work[place + 64]
        return chosen, scale * work[place], scale
    while True:
        following = 1 << 20
        for k in range(n_choices):
            hits = _beats(load(work, _TRIED + 16 * k), load(work, _TRIED + 64 + 16 * k), best)
            later = (lane_numbers() * n_choices + k) > chosen
            bits = mask_bits(hits & later) & valid
            if bits:
                following = min(following, n_choices * lowest_bit(i32(bits)) + k)
        if following == 1 << 20:
            return chosen, best, scale
        chosen = following
        place = _TRIED + 16 * (chosen % n_choices) + chosen // n_choices
        scale = work[place] / work[place + 64]
        best = scale * work[place]


@kernel
def _clear_winner(work: Any, n_choices: int, valid: Any) -> Any:
    """The split and choice in TRIED that all turns must end with, or -1 where they have to be taken. One is known to be better than the best so far.

    A turn compares by qx**2 > best * q2, best being (qx / q2) * qx of an earlier one. Five roundings cannot decide against a score qx**2 / q2 that is
    larger by a part in 250,000 (rounding is a part in 16 million), as long as no product leaves the range of normal numbers.
    """
    is_valid = ((splat(valid) >> lane_numbers()) & 1) != 0
    strange = ~is_valid & is_valid
    top_square = splat(f32(0))  # of qx, and q2: the best choice of each lane
    top_q2 = splat(f32(1))
    for k in range(n_choices):
        qx = load(work, _TRIED + 16 * k)
        q2 = load(work, _TRIED + 64 + 16 * k)
        counts = is_valid & (q2 > f32(0))
        better = counts & (qx * qx * top_q2 > top_square * q2)
        top_square = where(better, qx * qx, top_square)
        top_q2 = where(better, q2, top_q2)
        strange = strange | (counts & ((q2 < f32(1e-15)) | (q2 > f32(1e9))))
    limit = largest(top_square / top_q2)
    if mask_bits(strange) or not (limit > f32(1e-20) and limit < f32(1e15)):
        return -1
    limit = limit * f32(0.999996)
    chosen = -1
    for k in range(n_choices):
        qx = load(work, _TRIED + 16 * k)
        near = mask_bits(is_valid & _beats(qx, load(work, _TRIED + 64 + 16 * k), limit))
        if near & (near - 1) or (near and chosen >= 0):
            return -1
        if near:
            chosen = n_choices * lowest_bit(near) + k
    return chosen


@kernel
def _to_grid(
    x: Any,
    at: int,
    b: int,
    n_groups: int,
    scale: Any,
    shifts: Any,
    halves: int,
    index: Any,
    starts: Any,
    ends: Any,
    neighbours: Any,
    work: Any,
    codes: Any,
) -> Any:
    """Codes on the grid to CODES; returns the scale, fitted again where a group was off the grid."""
    weights = W + b * n_groups * 8
    was_off = False
    for g in range(n_groups):
        code = 0
        for i in range(8):
            code |= codes[_LEVELS + 8 * g + i] << (2 * i)
        if index[code] < 0:
            was_off = True
            base = base_value(shifts, g % halves)
            code = _nearest_neighbour(x, at + 8 * g, work, weights + 8 * g, scale, base, neighbours, starts[code], ends[code])
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
def base_value(shifts: Any, half: int) -> Any:
    """What level 0 stands for; the next levels are one more each."""
    return f32(-1.125) if (shifts >> half) & 1 else f32(-0.875)


@kernel
def _nearest_neighbour(x: Any, at: int, work: Any, weights: int, scale: Any, base: Any, neighbours: Any, first: Any, last: Any) -> Any:
    """The code of the first of the nearest neighbours; of the first of all, where no distance is finite."""
    best = splat(LARGEST)
    chosen = splat(neighbours[first])
    number = lane_numbers()
    chosen_number = number
    for k in range(first, last, 16):
        candidates = load_u16(neighbours.view(np.uint8), 2 * k)
        distance = splat(f32(0))
        for i in range(8):
            difference = scale * (to_float((candidates >> (2 * i)) & 3) + base) - x[at + i]
            distance = distance + work[weights + i] * difference * difference
        better = (distance < best) & (number < last - first)
        best = where(better, distance, best)
        chosen = where(better, candidates, chosen)
        chosen_number = where(better, number, chosen_number)
        number = number + 16
    winners = best == smallest(best)
    earliest = smallest(where(winners, chosen_number, 1 << 20))
    return lane(chosen, lowest_bit(mask_bits(winners & (chosen_number == earliest))))
