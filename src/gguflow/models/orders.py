"""Orders of rows: for each row of one tensor, the row of another that it is, as a function.

Checkpoints and llama.cpp disagree about the order of heads, of halves and pairs inside a head, and of
matrices that are fused. Each order here is named, has its inverse, and works on any range of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

RowNumbers = NDArray[np.int64]


@dataclass(frozen=True)
class RopeOrder:
    """Rows of query and key projections, and of their biases, as llama.cpp's "norm" rotation has them.

    Checkpoints rotate halves of a head (row j with row j + d/2), llama.cpp's "norm" rope rotates neighbours
    (2j with 2j + 1): output row 2j + k of a head is source row k * d/2 + j.

    head_dim: rows of a head.
    rotated: rows of a head that rotate, from its first on; None for all.
    is_inverse: whether this is the inverse, from GGUF's order to the checkpoint's.
    """

    head_dim: int
    rotated: int | None = None
    is_inverse: bool = False

    def __call__(self, rows: RowNumbers) -> RowNumbers:
        """The source row of each output row.

        rows: numbers of output rows, int64[n].
        """
        n = self.head_dim if self.rotated is None else self.rotated
        head, within = np.divmod(rows, self.head_dim)
        if self.is_inverse:
            half, pair = np.divmod(within, n // 2)
            moved = 2 * pair + half
        else:
            pair, half = np.divmod(within, 2)
            moved = half * (n // 2) + pair
        source: RowNumbers = head * self.head_dim + np.where(within < n, moved, within)
        return source

    @property
    def inverse(self) -> RopeOrder:
        return replace(self, is_inverse=not self.is_inverse)


@dataclass(frozen=True)
class Axes:
    """Rows in an order that is a transposition of axes: of an output of this shape, axes as listed.

    The rows of the source are numbered as an array of shape `shape`; the output has its axes in the order
    `axes`, as by numpy.transpose.

    shape: of the row numbers in the source.
    axes: a permutation of the axes.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def __call__(self, rows: RowNumbers) -> RowNumbers:
        """The source row of each output row; numbers from n on stay.

        rows: numbers of output rows, int64[n].
        """
        own = np.asarray(self.shape)[list(self.axes)]
        places = np.unravel_index(rows, tuple(int(n) for n in own))
        by_axis = dict(zip(self.axes, places, strict=True))
        source = np.zeros(len(rows), np.int64)
        for axis, size in enumerate(self.shape):
            source = source * size + by_axis[axis]
        return source

    @property
    def inverse(self) -> Axes:
        shape = tuple(self.shape[axis] for axis in self.axes)
        return Axes(shape, tuple(int(i) for i in np.argsort(self.axes)))


@dataclass(frozen=True)
class Groups:
    """Parts that a checkpoint keeps group by group: [q k v, q k v, ...] as [q q ..., k k ..., v v ...].

    sizes: rows of each part in one group.
    n_groups: number of groups.
    is_inverse: from the order of parts to that of groups.
    """

    sizes: tuple[int, ...]
    n_groups: int
    is_inverse: bool = False

    def __call__(self, rows: RowNumbers) -> RowNumbers:
        """The source row of each output row.

        rows: numbers of output rows, int64[n].
        """
        ends = np.cumsum(self.sizes)
        starts = ends - np.asarray(self.sizes)
        sizes = np.asarray(self.sizes)
        if self.is_inverse:
            group, within = np.divmod(rows, ends[-1])
            part = np.searchsorted(ends, within, side="right")
            back: RowNumbers = starts[part] * self.n_groups + group * sizes[part] + within - starts[part]
            return back
        part = np.searchsorted(ends * self.n_groups, rows, side="right")
        group, within = np.divmod(rows - starts[part] * self.n_groups, sizes[part])
        source: RowNumbers = group * ends[-1] + starts[part] + within
        return source

    @property
    def inverse(self) -> Groups:
        return replace(self, is_inverse=not self.is_inverse)


@dataclass(frozen=True)
class Table:
    """Rows in an order that is written down.

    numbers: for each output row, the source row.
    """

    numbers: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Sequence[int] | RowNumbers) -> Table:
        return cls(tuple(int(n) for n in numbers))

    def __call__(self, rows: RowNumbers) -> RowNumbers:
        return np.asarray(self.numbers, np.int64)[rows]

    @property
    def inverse(self) -> Table:
        return Table.of(np.argsort(self.numbers))


@dataclass(frozen=True)
class Tail:
    """Rows from a number on in another order; those before it stay.

    start: the first row that moves.
    order: of the rows from there on, counted from 0.
    """

    start: int
    order: RopeOrder | Axes | Groups | Table | Tail

    def __call__(self, rows: RowNumbers) -> RowNumbers:
        """The source row of each output row.

        rows: numbers of output rows, int64[n].
        """
        moved = rows >= self.start
        found = rows.copy()
        found[moved] = self.start + self.order(rows[moved] - self.start)
        return found

    @property
    def inverse(self) -> Tail:
        return Tail(self.start, self.order.inverse)


Order = RopeOrder | Axes | Groups | Table | Tail
"""An order with an inverse."""
