"""The grids of the I-quants: which groups of 8 (or 4) levels have a code, and what a level is worth.

An I-quant stores, for a group of neighbouring weights, the number of a point on a grid: a fixed list of
combinations of levels that real weights use most. The lists are facts of the format, without a formula.
`tools/make_grids` reads them out of ggml by decoding every index, and keeps them in `grids.bin`: for each
grid in the order of `SHAPES`, one little-endian uint16 per point, the level of weight k in the bits from
``k * level_bits`` on. 9,216 bytes for the 4,608 points of six grids.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Grid:
    """Points of `group` levels each.

    values: what each level decodes to.
    shells: how many distances the encoder looks at around a combination that is no grid point; see
        `neighbours`.
    codes: uint16[n], a point's levels packed, weight k in the bits from k * level_bits on.
    levels: uint8[n, group], the same, unpacked.
    """

    name: str
    group: int
    level_bits: int
    values: tuple[int, ...]
    shells: int
    codes: NDArray[np.uint16]

    @functools.cached_property
    def levels(self) -> NDArray[np.uint8]:
        return self.unpack(self.codes)

    @functools.cached_property
    def points(self) -> NDArray[np.float32]:
        """float32[n, group]: what the points decode to, before scale and sign."""
        return np.array(self.values, np.float32)[self.levels]

    @functools.cached_property
    def index(self) -> dict[int, int]:
        """From a packed combination of levels to its number in the grid."""
        return {int(code): i for i, code in enumerate(self.codes)}

    def pack(self, levels: NDArray[np.integer]) -> int:
        """The code of `group` levels."""
        return sum(int(level) << (self.level_bits * k) for k, level in enumerate(levels))

    def unpack(self, codes: NDArray[np.integer]) -> NDArray[np.uint8]:
        """[n] codes -> uint8[n, group] levels."""
        shifts = np.arange(self.group) * self.level_bits
        return (np.asarray(codes)[:, None] >> shifts & ((1 << self.level_bits) - 1)).astype(np.uint8)

    def neighbours(self, code: int) -> NDArray[np.intp]:
        """Grid points around a combination that is none: those at the `shells` smallest distances that occur,
        nearest first, ties by number.

        Distance is Euclidean between levels. The order decides which of equally good points an encoder takes,
        so it is part of the bytes.
        """
        return _neighbours(self, code)


@functools.cache
def _neighbours(grid: Grid, code: int) -> NDArray[np.intp]:
    offsets = grid.levels.astype(np.int64) - grid.unpack(np.array([code])).astype(np.int64)
    distance = (offsets * offsets).sum(axis=1)
    reach = np.unique(distance)[: grid.shells][-1]
    order = np.argsort(distance, kind="stable")
    return order[: int((distance <= reach).sum())]


_THREE = (8, 25, 43)
_EIGHT = (4, 12, 20, 28, 36, 44, 52, 62)
_ODD = (1, 3, 5, 7, 9, 11, 13, 15)
_TERNARY = (-1, 0, 1)

SHAPES: dict[str, tuple[int, int, int, tuple[int, ...], int]] = {  # points, group, level_bits, values, shells
    "iq2_xxs": (256, 8, 2, _THREE, 2),
    "iq2_xs": (512, 8, 2, _THREE, 2),
    "iq2_s": (1024, 8, 2, _THREE, 1),
    "iq1": (2048, 8, 2, _TERNARY, 3),
    "iq3_xxs": (256, 4, 3, _EIGHT, 2),
    "iq3_s": (512, 4, 3, _ODD, 3),
}


@functools.cache
def grid(name: str) -> Grid:
    """One of the six grids: iq2_xxs, iq2_xs, iq2_s, iq1 (shared by IQ1_S and IQ1_M), iq3_xxs, iq3_s."""
    data = np.frombuffer(files(__package__).joinpath("grids.bin").read_bytes(), "<u2")
    first = 0
    for other, (points, group, level_bits, values, shells) in SHAPES.items():
        if other == name:
            codes = data[first : first + points].astype(np.uint16)
            return Grid(name, group, level_bits, values, shells, codes)
        first += points
    raise KeyError(name)


def even_signs(bits: int) -> int:
    """Seven stored sign bits -> eight: the last makes the number of minus signs even. ggml's ksigns_iq2xs."""
    return bits | (bits.bit_count() & 1) << 7


def signed(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """values with the sign of value i turned where bit i is set."""
    return np.array([v * np.float32(-1 if bits >> i & 1 else 1) for i, v in enumerate(values)], np.float32)


def pack_pairs(nibbles: Sequence[int]) -> list[int]:
    """Numbers 0 to 15 two to a byte, the first in the low half."""
    return [low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)]


def unpack_pairs(packed: Sequence[int]) -> list[int]:
    """The inverse of pack_pairs."""
    return [nibble for byte in packed for nibble in (byte & 15, byte >> 4)]
