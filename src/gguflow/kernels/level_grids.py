"""What the searches of `gguflow.fidelity` know of a block format, and how a weight finds its level on it.

A weight of a block is ``step * level - offset``, each operation rounded to binary32, with ``step = d *
scale`` and ``offset = dmin * min`` of its sub-block; where a block has one scale, scale and min are 1. All
functions work on lanes: sixteen blocks side by side, weight i of all of them at flat element 16 * i.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels import fp4, iq4
from gguflow.kernels.bits import float_to_half, half_to_float
from gguflow.kernels.lanes import bits_float, float_bits, load, lookup16, splat, to_float, to_int, where
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, F32x16, I32x16

f32 = np.float32
i32 = np.int32

INTEGERS, IQ4_VALUES, E2M1_VALUES = 0, 1, 2
"""Kinds of levels: all integers of a range, or the values of a table."""
HALF, E8M0, E4M3 = 0, 1, 2
"""Types of d: binary16 of either sign, a power of two, an unsigned 8-bit float (half its value)."""
NO_OFFSET, SUB_OFFSETS, ONE_OFFSET = 0, 1, 2
"""Offsets: none; dmin times the min of a sub-block, not negative; one binary16 of either sign."""

_ROUNDER = f32(12582912.0)  # 1.5 * 2**23


class Grid(NamedTuple):
    """A format, as kernels take it.

    size, sub: weights of a block and of a sub-block.
    lowest, highest: levels.
    levels, scale, offset: kinds, the constants above.
    scale_low, scale_high: the integers that scale sub-blocks; both 1 where d does.
    ladder: float32, what the widest useful range is divided by, or levels it is cut into, in each trial.
    starts: float32[2 * n], factors of d and dmin that a super-block begins with.
    rounds: how often scales and codes are fitted to each other at most.
    """

    size: int
    sub: int
    lowest: f32
    highest: f32
    levels: int
    scale: int
    offset: int
    scale_low: int
    scale_high: int
    ladder: F32s
    starts: F32s
    rounds: int


@helper
def clamp(v: F32x16, lowest: F32x16, highest: F32x16) -> F32x16:
    """v inside a range; NaN becomes the lowest."""
    v = where(v > lowest, v, lowest)
    return where(v < highest, v, highest)


@helper
def nearest(v: F32x16) -> F32x16:
    """The nearest integer, ties to even, for |v| < 2**22."""
    return (v + _ROUNDER) - _ROUNDER


@helper
def level(v: F32x16, grid: Grid) -> F32x16:
    """The level nearest to v."""
    v = clamp(v, splat(grid.lowest), splat(grid.highest))
    if grid.levels == INTEGERS:
        return nearest(v)
    if grid.levels == IQ4_VALUES:
        return lookup16(load(iq4.VALUES, 0), iq4.nearest_values(v))
    return fp4.values(fp4.nearest_codes_of_scaled(v))


@helper
def code(v: F32x16, grid: Grid) -> I32x16:
    """The number of the level nearest to v, as a block holds it (integers: from the lowest on)."""
    v = clamp(v, splat(grid.lowest), splat(grid.highest))
    if grid.levels == INTEGERS:
        return to_int(nearest(v) - grid.lowest)
    if grid.levels == IQ4_VALUES:
        return iq4.nearest_values(v)
    return fp4.nearest_codes_of_scaled(v)


@helper
def level_of_code(codes: I32x16, grid: Grid) -> F32x16:
    """The level with this number."""
    if grid.levels == INTEGERS:
        return to_float(codes) + grid.lowest
    if grid.levels == IQ4_VALUES:
        return lookup16(load(iq4.VALUES, 0), codes)
    return fp4.values(codes)


@helper
def inverse_of(step: F32x16) -> F32x16:
    """1 / step, and 0 for 0."""
    return where(step != f32(0), f32(1) / step, f32(0))


@helper
def half(v: F32x16) -> F32x16:
    """v rounded to binary16."""
    return half_to_float(float_to_half(v))


@helper
def half_neighbour(v: F32x16, move: int) -> F32x16:
    """The binary16 that is `move` patterns farther from zero than v rounded to binary16; finite."""
    bits = float_to_half(v)
    magnitude = (bits & 0x7FFF) + i32(move)
    magnitude = where(magnitude > 0, magnitude, 0)
    magnitude = where(magnitude < 0x7BFF, magnitude, 0x7BFF)
    return half_to_float(magnitude | (bits & 0x8000))


@helper
def scale_neighbour(v: F32x16, move: int, grid: Grid) -> F32x16:
    """The number of the type of d that is `move` patterns away from v; for the types without sign v is not
    negative, and is cut, not rounded.
    """
    if grid.scale == HALF:
        return half_neighbour(v, move)
    if grid.scale == E8M0:
        exponent = (float_bits(v) >> 23) + i32(move)
        exponent = where(exponent > 1, exponent, 1)
        exponent = where(exponent < 253, exponent, 253)
        return bits_float(exponent << 23)
    pattern = where(
        v < f32(0.0078125),
        to_int(where(v < f32(1), v, f32(0)) * f32(1024)),
        (float_bits(v) >> 20) - i32(952),
    )
    pattern = pattern + i32(move)
    pattern = where(pattern > 0, pattern, 0)
    pattern = where(pattern < 126, pattern, 126)
    normal = bits_float((pattern + i32(952)) << 20)
    return where(pattern < 8, to_float(pattern) * f32(0.0009765625), normal)
