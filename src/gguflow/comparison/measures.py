"""Measures of the difference of two tensors: sums over tiles in float64, added in a fixed order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gguflow.arrays import Doubles
from gguflow.models.base import ModelTensor
from gguflow.models.reading import ModelReader, tile_ranges
from gguflow.threads import ordered

TILE = 1 << 18
"""Weights compared at a time: enough work for NumPy that threads do not wait for the interpreter's lock."""

PIECE = 1 << 20
"""Weights that a thread takes at a time."""

N_WORST = 5
"""Number of worst rows that are reported."""


@dataclass(frozen=True)
class Row:
    """A row of a tensor, counted over the flattened leading axes, and its relative error."""

    index: int
    relative_error: float


@dataclass(frozen=True)
class TensorMeasures:
    """Sums over the weights a and b of two tensors, and measures from them; measures can be added.

    n_weights: number of compared weights.
    n_non_finite: pairs with NaN or infinity, which count as zero in the sums.
    max_error: the largest |a - b|.
    worst_rows: rows with the largest relative error, worst first.
    """

    n_weights: int = 0
    n_non_finite: int = 0
    squared_a: float = 0.0
    squared_b: float = 0.0
    squared_error: float = 0.0
    product: float = 0.0
    max_error: float = 0.0
    worst_rows: tuple[Row, ...] = ()

    def __add__(self, other: TensorMeasures) -> TensorMeasures:
        return TensorMeasures(
            self.n_weights + other.n_weights,
            self.n_non_finite + other.n_non_finite,
            self.squared_a + other.squared_a,
            self.squared_b + other.squared_b,
            self.squared_error + other.squared_error,
            self.product + other.product,
            max(self.max_error, other.max_error),
        )

    @property
    def is_exact(self) -> bool:
        return self.squared_error == 0 and self.n_non_finite == 0

    @property
    def rmse(self) -> float:
        """The root of the mean squared error."""
        return math.sqrt(self.squared_error / self.n_weights) if self.n_weights else 0.0

    @property
    def relative_error(self) -> float:
        """The norm of a - b divided by that of a; infinite if only a is zero."""
        return _ratio(self.squared_error, self.squared_a)

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB: 20 log10 of the norm of a over that of a - b; infinite if equal."""
        return (
            -20 * math.log10(self.relative_error)
            if 0 < self.relative_error < math.inf
            else math.inf
            if not self.squared_error
            else -math.inf
        )

    @property
    def cosine(self) -> float:
        """Cosine of the angle between a and b as vectors; 1 for two zeros, 0 if only one is zero."""
        norms = math.sqrt(self.squared_a * self.squared_b)
        return max(-1.0, min(1.0, self.product / norms)) if norms else float(self.squared_error == 0)


@dataclass(frozen=True)
class _Piece:
    """The measures of a piece of a tensor, and squared norms of its (parts of) rows from `first_row` on."""

    measures: TensorMeasures
    first_row: int
    errors: Doubles
    norms: Doubles


@dataclass(frozen=True)
class Operand:
    """A tensor of one side, with the reader of its files."""

    reader: ModelReader
    tensor: ModelTensor


def measure(pairs: Sequence[tuple[Operand, Operand]], threads: int) -> Iterator[TensorMeasures]:
    """Compare pairs of tensors of equal size, in order; raises what reading raises.

    The results do not depend on threads.
    """
    tasks = (
        (a, b, first, min(first + PIECE, a.tensor.n_weights))
        for a, b in pairs
        for first in range(0, a.tensor.n_weights, PIECE)
    )
    measured = ordered(lambda task: _piece(*task), tasks, threads)
    for a, _ in pairs:
        row = _row(a.tensor)
        errors, norms = np.zeros((2, a.tensor.n_weights // row if row else 0))
        total = TensorMeasures()
        for piece in itertools.islice(measured, -(-a.tensor.n_weights // PIECE)):
            total += piece.measures
            covered = slice(piece.first_row, piece.first_row + len(piece.errors))
            errors[covered] += piece.errors
            norms[covered] += piece.norms
        yield replace(total, worst_rows=_worst(errors, norms))


def _row(tensor: ModelTensor) -> int:
    """Number of weights in a row."""
    return tensor.shape[-1] if tensor.shape else 1


def _piece(a: Operand, b: Operand, first: int, last: int) -> _Piece:
    """Compare weights [first, last), tile by tile."""
    row = _row(a.tensor)
    first_row = first // row
    errors, norms = np.zeros((2, -(-last // row) - first_row))
    measures = TensorMeasures()
    for start, stop in tile_ranges(first, last, row, TILE):
        shape = -1, min(row, stop - start)
        x, y = (side.reader.doubles(side.tensor, start, stop).reshape(shape) for side in (a, b))
        covered = slice(start // row - first_row, start // row - first_row + len(x))
        measures += _tile(x, y, errors[covered], norms[covered])
    for side in (a, b):
        side.reader.done(side.tensor, first, last)
    return _Piece(measures, first_row, errors, norms)


def _tile(x: Doubles, y: Doubles, errors: Doubles, norms: Doubles) -> TensorMeasures:
    """Measure some rows, and add their squared errors and norms to `errors` and `norms`."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = x - y
        n_non_finite = 0
        if not math.isfinite(float(error.sum())):
            bad = ~(np.isfinite(x) & np.isfinite(y))
            n_non_finite = int(np.count_nonzero(bad))
            x, y, error = (np.where(bad, 0.0, array) for array in (x, y, error))
        squared_errors, squared_norms = _squares(error), _squares(x)
    errors += squared_errors
    norms += squared_norms
    return TensorMeasures(
        x.size,
        n_non_finite,
        float(squared_norms.sum()),
        float(_squares(y).sum()),
        float(squared_errors.sum()),
        float(np.einsum("ij,ij->", x, y)),
        max(float(error.max()), -float(error.min())),
    )


def _squares(x: Doubles) -> Doubles:
    """The squared norm of each row."""
    squares: Doubles = np.einsum("ij,ij->i", x, x)
    return squares


def _worst(errors: Doubles, norms: Doubles) -> tuple[Row, ...]:
    """The worst rows by relative error, from the squared errors and norms of all rows."""
    found = np.flatnonzero(errors)
    ratios = np.full(len(found), np.inf)
    np.divide(errors[found], norms[found], out=ratios, where=norms[found] > 0)
    worst = np.argsort(-ratios, kind="stable")[:N_WORST]
    return tuple(Row(int(found[i]), math.sqrt(ratios[i])) for i in worst)


def _ratio(squared: float, of: float) -> float:
    """The root of a ratio of squares; 0 for 0 / 0."""
    if squared == 0:
        return 0.0
    return math.sqrt(squared / of) if of else math.inf
