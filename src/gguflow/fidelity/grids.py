"""The grids of block formats: the levels a weight can take, and the scales that place them.

Weight i of a block is ``step * level - offset``, with ``step = d * scale`` and ``offset = dmin * min`` of its
sub-block, each operation rounded to binary32. `gguflow.fidelity.packing` turns scales and codes into blocks
and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from gguflow import blocks
from gguflow.arrays import Floats
from gguflow.blocks import BlockFormat, fp4, iq4
from gguflow.errors import UnknownFormatError
from gguflow.quantization import resolve

if TYPE_CHECKING:
    from gguflow.kernels.level_grids import Grid as KernelGrid

Levels = Literal["integers", "iq4", "e2m1"]
"""All integers of a range; the sixteen values of IQ4; the doubled values of E2M1."""
Scale = Literal["half", "e8m0", "e4m3"]
"""What d is: a binary16 of either sign; a power of two; half of an unsigned 8-bit float."""
Offset = Literal["none", "sub", "one"]
"""None; dmin, not negative, times an integer min for each sub-block; one binary16 of either sign."""


@dataclass(frozen=True)
class Grid:
    """The grid of a block format.

    format: its key.
    size: weights that share d: of a block, or, in NVFP4, of a fourth of one.
    sub: weights that share an integer scale; `size` where there is none.
    lowest, highest: levels.
    levels, scale, offset: see their types.
    scales: range of the integer scales, (1, 1) where there are none. Mins go from 0 to the highest.
    ladder: factors and divisions that the search tries (see `kernels.level_grids.Grid`).
    starts: pairs of factors for d and dmin with which a super-block begins.
    rounds: most rounds of fitting scales and codes to each other.
    """

    format: str
    size: int
    sub: int
    lowest: int
    highest: int
    ladder: tuple[float, ...]
    levels: Levels = "integers"
    scale: Scale = "half"
    offset: Offset = "none"
    scales: tuple[int, int] = (1, 1)
    starts: tuple[tuple[float, float], ...] = ()
    rounds: int = 0

    @property
    def block_format(self) -> BlockFormat:
        return blocks.FORMATS[self.format]

    @property
    def n_sub_blocks(self) -> int:
        """Sub-blocks for each d."""
        return self.size // self.sub

    @cached_property
    def level_of_code(self) -> Floats:
        """float32[n]: the level that each code stands for."""
        if self.levels == "iq4":
            return iq4.VALUES
        if self.levels == "e2m1":
            return np.array(fp4.VALUES, np.float32)
        return np.arange(self.lowest, self.highest + 1, dtype=np.float32)

    @cached_property
    def is_coarse(self) -> bool:
        """Whether a weight takes less than 4 bits."""
        return self.block_format.bits_per_weight < 4

    def for_kernels(self) -> KernelGrid:
        from gguflow.kernels import level_grids

        return level_grids.Grid(
            size=self.size,
            sub=self.sub,
            lowest=np.float32(self.lowest),
            highest=np.float32(self.highest),
            levels=("integers", "iq4", "e2m1").index(self.levels),
            scale=("half", "e8m0", "e4m3").index(self.scale),
            offset=("none", "sub", "one").index(self.offset),
            scale_low=self.scales[0],
            scale_high=self.scales[1],
            ladder=np.array(self.ladder, np.float32),
            starts=np.array(self.starts, np.float32).reshape(-1),
            rounds=self.rounds,
        )


def _rungs(low: float, high: float, count: int) -> tuple[float, ...]:
    """Evenly spaced numbers, ends included, in binary32."""
    step = (high - low) / (count - 1)
    return tuple(float(np.float32(low + step * k)) for k in range(count))


_PAIRS = ((1.0, 1.0), (1.06, 1.06), (0.94, 0.94), (1.0, 0.93), (0.93, 1.0))
_SINGLES = ((1.0, 1.0), (0.97, 1.0), (0.94, 1.0), (0.9, 1.0), (1.04, 1.0))


def _one_scale(format: str, bits: int, ladder: tuple[float, ...]) -> Grid:
    top = 1 << (bits - 1)
    return Grid(format, 32, 32, -top, top - 1, ladder)


GRIDS: dict[str, Grid] = {
    grid.format: grid
    for grid in (
        _one_scale("q4_0", 4, _rungs(0.955, 1.4, 11)),
        _one_scale("q5_0", 5, _rungs(0.97, 1.27, 16)),
        _one_scale("q8_0", 8, _rungs(0.994, 1.054, 14)),
        Grid("q4_1", 32, 32, 0, 15, _rungs(13, 18, 11), offset="one"),
        Grid("q5_1", 32, 32, 0, 31, _rungs(28, 35, 15), offset="one"),
        Grid("iq4_nl", 32, 32, -127, 113, _rungs(0.85, 1.4, 14), levels="iq4"),
        Grid("mxfp4", 32, 32, -12, 12, _rungs(0.9, 1.6, 6), levels="e2m1", scale="e8m0"),
        Grid("nvfp4", 16, 16, -12, 12, _rungs(0.85, 1.6, 10), levels="e2m1", scale="e4m3"),
        Grid("tq2_0", 256, 256, -1, 1, _rungs(0.9, 3.0, 12)),
        Grid(
            *("q2_k", 256, 16, 0, 3, _rungs(1.8, 4.2, 13)),
            offset="sub",
            scales=(0, 15),
            starts=_PAIRS,
            rounds=5,
        ),
        Grid(
            *("q3_k", 256, 16, -4, 3, _rungs(0.94, 1.54, 12)),
            scales=(-32, 31),
            starts=_SINGLES,
            rounds=4,
        ),
        Grid(
            *("q4_k", 256, 32, 0, 15, _rungs(11.25, 18.75, 13)),
            offset="sub",
            scales=(0, 63),
            starts=_PAIRS,
            rounds=5,
        ),
        Grid(
            *("q5_k", 256, 32, 0, 31, _rungs(25, 37, 17)),
            offset="sub",
            scales=(0, 63),
            starts=_PAIRS,
            rounds=5,
        ),
        Grid(
            *("q6_k", 256, 16, -32, 31, _rungs(0.985, 1.135, 12)),
            scales=(-128, 127),
            starts=_SINGLES,
            rounds=4,
        ),
        Grid(
            *("iq4_xs", 256, 32, -127, 113, _rungs(0.85, 1.4, 12)),
            levels="iq4",
            scales=(-32, 31),
            starts=_SINGLES,
            rounds=4,
        ),
    )
}
"""The grids by the key of their format."""


def grid_of(format: str | BlockFormat) -> Grid:
    """The grid of a format.

    format: a name, in any case, or a BlockFormat.

    Raises UnknownFormatError for a format that does not exist, or whose grid is not one of these.
    """
    block_format = resolve(format)
    grid = GRIDS.get(block_format.key)
    if grid is None:
        raise UnknownFormatError(
            f"better scales are not searched for {block_format.name}; "
            f"they are for {', '.join(key.upper() for key in GRIDS)}"
        )
    return grid
