"""Peaks, ranges and sums of magnitudes of blocks, on lanes. Extremes are the same in any order; the order of
the sums is stated.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import bits_float, float_bits, lane, largest, load, smallest, splat, vabs, where
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s

f32 = np.float32
i32 = np.int32

MAGNITUDE = 0x7FFFFFFF
"""All bits of a binary32 but the sign."""


@helper
def peak_of(x: F32s, start: int, stop: int) -> f32:
    """The largest magnitude; NaN where there is a NaN.

    Magnitudes are compared as the integers of their bits, which has the order of the numbers, with NaN above
    infinity: nothing is lost, at no cost.
    """
    best = splat(i32(0))
    i = start
    while i + 16 <= stop:
        v = float_bits(load(x, i)) & MAGNITUDE
        best = where(v > best, v, best)
        i += 16
    peak = largest(best)
    while i < stop:
        peak = max(peak, float_bits(x[i]) & i32(MAGNITUDE))
        i += 1
    return bits_float(i32(peak))


@helper
def bottom_and_top_of(x: F32s, start: int, stop: int, bottom: f32, top: f32) -> tuple[f32, f32]:
    """The smallest and the largest weight, of them and of the two given."""
    low = splat(f32(bottom))
    high = splat(f32(top))
    i = start
    while i + 16 <= stop:
        v = load(x, i)
        low = where(v < low, v, low)
        high = where(v > high, v, high)
        i += 16
    bottom = smallest(low)
    top = largest(high)
    while i < stop:
        bottom = min(bottom, x[i])
        top = max(top, x[i])
        i += 1
    return bottom, top


@helper
def sum_of_magnitudes(x: F32s, start: int, stop: int) -> f32:
    """Sixteen sums, of every sixteenth weight of the whole sixteens; these added from the first to the last;
    then the weights that are left.
    """
    sums = splat(f32(0))
    i = start
    while i + 16 <= stop:
        sums = sums + vabs(load(x, i))
        i += 16
    total = f32(0)
    for k in range(16):
        total = f32(total + lane(sums, k))
    while i < stop:
        total = f32(total + abs(x[i]))
        i += 1
    return total


@kernel
def peaks(x: F32s, block: int, out: F32s) -> None:
    """The largest magnitude of each block, the last one short."""
    for b in range(out.size):
        out[b] = peak_of(x, b * block, min(b * block + block, x.size))


@kernel
def ranges(x: F32s, block: int, bottoms: F32s, tops: F32s) -> None:
    """Smallest and largest weight of each block."""
    for b in range(tops.size):
        bottoms[b], tops[b] = bottom_and_top_of(
            x, b * block, min(b * block + block, x.size), x[b * block], x[b * block]
        )


@kernel
def magnitude_sums(x: F32s, block: int, out: F32s) -> None:
    """The sum of magnitudes of each block, in the order of `sum_of_magnitudes`."""
    for b in range(out.size):
        out[b] = sum_of_magnitudes(x, b * block, min(b * block + block, x.size))
