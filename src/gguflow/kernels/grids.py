"""Decoding grid points on lanes: two groups of 8 weights (or four of 4) side by side, and their signs.

The tables come from `gguflow.blocks.grids` and are passed to the kernels as arrays, never compiled in.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks.grids import grid
from gguflow.kernels.lanes import (
    bits_float,
    float_bits,
    lane_numbers,
    load_u8_halves,
    load_u8_quarters,
    splat,
    to_float,
)
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32x16, Int, U8s


@functools.cache
def decoded_points(name: str) -> NDArray[np.uint8]:
    """What the points of a grid decode to, uint8[n * group]; of the ternary grid its levels, which are one
    more.
    """
    points = grid(name)
    table = points.levels if min(points.values) < 0 else points.points.astype(np.uint8)
    return np.ascontiguousarray(table.reshape(-1))


@kernel
def two_points(table: U8s, first: Int, second: Int) -> F32x16:
    """The 16 values of two points of 8."""
    return to_float(load_u8_halves(table, first * 8, second * 8))


@kernel
def four_points(table: U8s, first: Int, second: Int, third: Int, fourth: Int) -> F32x16:
    """The 16 values of four points of 4."""
    return to_float(load_u8_quarters(table, first * 4, second * 4, third * 4, fourth * 4))


@kernel
def with_signs(v: F32x16, bits: Int) -> F32x16:
    """v, its sign turned in the lanes whose bit is set."""
    return bits_float(float_bits(v) ^ ((splat(bits) >> lane_numbers()) << 31))


@kernel
def even_signs(first: Int, second: Int) -> Int:
    """Two times seven sign bits -> 16: the eighth makes the number of minus signs even."""
    bits = first | (second << 8)
    parity = bits ^ (bits >> 4)
    parity ^= parity >> 2
    parity ^= parity >> 1
    return bits | ((parity & 0x0101) << 7)


@kernel
def load_word(blocks: U8s, i: Int) -> Int:
    """The little-endian uint16 at byte i, as an int64."""
    return int(blocks[i]) | (int(blocks[i + 1]) << 8)


@kernel
def load_long_word(blocks: U8s, i: Int) -> Int:
    """The little-endian uint32 at byte i, as an int64."""
    return load_word(blocks, i) | (load_word(blocks, i + 2) << 16)


@kernel
def store_word(out: U8s, i: Int, word: Int) -> None:
    """The low 16 bits to bytes i and i + 1, little-endian."""
    out[i] = np.uint8(word & 255)
    out[i + 1] = np.uint8((word >> 8) & 255)


@kernel
def store_long_word(out: U8s, i: Int, word: Int) -> None:
    """The low 32 bits of an int64 to bytes i ... i + 3, little-endian."""
    store_word(out, i, word & 0xFFFF)
    store_word(out, i + 2, word >> 16)
