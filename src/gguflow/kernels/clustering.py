"""Codebooks learned from weights: clusters of numbers on a line, in integers, so that no order of summing can
show.

Numbers come ascending, with weights; prefix sums make the mean of any run of them two subtractions and a
division. The clusters begin as buckets of equal weight; each round moves every boundary halfway between the
means of its neighbours (Lloyd), until nothing moves.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import float_bits
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, I64s, Int

f32 = np.float32
i32 = np.int32
i64 = np.int64


@helper
def first_at_least(ascending: I64s, target: Int) -> Int:
    """How many of the numbers are smaller than target."""
    low, high = 0, ascending.size
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < target:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def learn(values: I64s, weights: I64s, rounds: int, centres: I64s) -> None:
    """Learn k centres of n numbers. A bucket without weight has the value where it begins (the last value,
    beyond the end).

    values: int64[n], ascending.
    weights: int64[n], none negative, not all zero.
    rounds: the most times that boundaries move.
    centres: int64[k], written: means rounded down, ascending.
    """
    n, k = values.size, centres.size
    mass = np.zeros(n + 1, np.int64)
    moment = np.zeros(n + 1, np.int64)
    for i in range(n):
        mass[i + 1] = mass[i] + weights[i]
        moment[i + 1] = moment[i] + weights[i] * values[i]
    edges = np.zeros(k + 1, np.int64)
    for c in range(1, k):
        edges[c] = first_at_least(mass, (mass[n] * c + k - 1) // k)
    edges[k] = n
    for done in range(rounds + 1):
        has_moved = False
        for c in range(k):
            first, last = edges[c], edges[c + 1]
            if mass[last] > mass[first]:
                centre = (moment[last] - moment[first]) // (mass[last] - mass[first])
            else:
                centre = values[min(first, n - 1)]
            has_moved = has_moved or done == 0 or centre != centres[c]
            centres[c] = centre
        if not has_moved:
            break
        for c in range(1, k):
            edges[c] = first_at_least(values, (centres[c - 1] + centres[c]) // 2 + 1)


@kernel
def learn_rows(values: I64s, weights: I64s, rounds: int, centres: I64s) -> None:
    """`learn` for each row: values, weights int64[m, n]; centres int64[m, k]."""
    for row in range(values.shape[0]):
        learn(values[row], weights[row], rounds, centres[row])


@kernel
def count(x: F32s, block: int, factors: F32s, importance: I64s, counts: I64s) -> None:
    """Add the importance of each weight to the place of its value in a histogram.

    x: float32, flat.
    factors: float32, what each block's values are multiplied by; used in turn.
    importance: int64, of each column; used in turn.
    counts: int64[groups, 65536], block b adds to group b % groups; places are those of `bfloat16` keys,
        ascending with the value.
    """
    n_groups = counts.shape[0]
    for i in range(x.size):
        b = i // block
        bits = float_bits(f32(x[i] * factors[b % factors.size]))
        word = ((bits + i32(0x7FFF) + ((bits >> i32(16)) & i32(1))) >> i32(16)) & i32(0xFFFF)
        key = word ^ i32(0xFFFF) if word & i32(0x8000) else word | i32(0x8000)
        counts[b % n_groups, key] += importance[i % importance.size]
