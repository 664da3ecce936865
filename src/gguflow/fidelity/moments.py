"""Second moments of the inputs of a matrix, made ready for error feedback: what all rows of the matrix share,
and every other matrix with the same inputs.

With inputs x, an error e of a row changes the output by e x, whose mean square is e H e^T, H = mean of x x^T.
H is damped (a part of its mean diagonal is added to its diagonal), and factored: H^-1 = U^T U, U upper
triangular. Row j of U / U_jj says how later columns make up for an error in column j.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.arguments import shown
from gguflow.arrays import Floats, as_array
from gguflow.errors import MomentsError, ShapeError, UsageError
from gguflow.fidelity.linear_algebra import one_thread
from gguflow.threads import check as check_threads
from gguflow.threads import run

DAMPING = 0.1
"""Of the mean diagonal: ten times what is usual, and better with few tokens."""

DOUBLE_UP_TO = 8192
"""Columns up to which the factor is computed in binary64; in binary32 above, to stay below 4 GB at 14,336."""

TILE = 512
"""Columns of a tile of the factorization."""

ASYMMETRY = 1e-3
"""The largest difference of H and its transpose, relative to the largest element, that is taken for
rounding.
"""


@dataclass(frozen=True)
class Factor:
    """damped: float32[n, n], H with damping.
    inverse: float32[n, n], upper triangular U with H^-1 = U^T U.
    n_dead: columns whose inputs were always 0.
    damping: what was added to the diagonal.
    """

    damped: Floats
    inverse: Floats
    n_dead: int
    damping: float

    @property
    def n(self) -> int:
        """Columns."""
        return len(self.damped)

    @cached_property
    def diagonal(self) -> Floats:
        """float32[n]: what the square of an error in each column costs by itself."""
        return np.ascontiguousarray(np.diagonal(self.damped))

    @cached_property
    def remaining(self) -> Floats:
        """float32[n]: what it costs when the columns to come have made up for it as far as they can."""
        return (1 / np.square(np.diagonal(self.inverse), dtype=np.float64)).astype(np.float32)


def factor(moments: ArrayLike, damping: float = DAMPING, threads: int | None = None) -> Factor:
    """Damp and factor second moments.

    moments: float32[n, n] or float64, symmetric, positive semidefinite: the sum or the mean of x x^T; only
        ratios count. Columns that were always 0 are in order: no error is passed to them.
    damping: a share of the mean diagonal, above 0.
    threads: number of threads; None for all processors. The factor does not depend on it.

    Raises ShapeError, UsageError (damping), MomentsError: NaN or infinity, no input at all (all zeros), a
    negative diagonal, not symmetric, not positive definite after damping.
    """
    check_threads(threads)
    if not 0 < damping < np.inf:
        raise UsageError(f"damping must be above 0 and finite, not {shown(damping)}")
    array = as_array(moments, "moments")
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.dtype.kind != "f":
        raise ShapeError(
            f"moments must be float32[n, n] or float64, not {array.dtype.name}{list(array.shape)}"
        )
    n = len(array)
    diagonal = np.diagonal(array).astype(np.float64)
    mean = _check(array, diagonal)
    dtype = np.dtype(np.float64 if n <= DOUBLE_UP_TO else np.float32)
    scaled = np.array(array, dtype, order="C")
    scaled *= dtype.type(1 / mean)  # a mean diagonal of 1: neither sums nor inverses leave binary32
    scaled[np.diag_indices(n)] += dtype.type(damping)
    damped = scaled.astype(np.float32)
    with one_thread():
        _cholesky_from_the_end(scaled, threads)
        _invert_upper(scaled, threads)
    inverse = scaled.astype(np.float32, copy=False)
    if not np.isfinite(inverse).all():
        raise MomentsError("the inverse of the second moments is not finite: use more damping")
    return Factor(damped, inverse, int((diagonal == 0).sum()), damping)


def _check(array: NDArray[Any], diagonal: NDArray[np.float64]) -> float:
    """The mean diagonal. Raises MomentsError."""
    if not _all(np.isfinite(rows).all() for rows in _strips(array)):
        raise MomentsError(
            "the second moments hold NaN or infinity: an activation overflowed, or the file is damaged"
        )
    if (diagonal < 0).any():
        column = int(diagonal.argmin())
        raise MomentsError(f"the second moment of column {column} is {diagonal[column]}, a negative square")
    mean = float(diagonal.mean()) if len(diagonal) else 0.0
    if mean == 0:
        raise MomentsError(
            "the second moments are all zero: no token reached this matrix; calibrate with more text, or "
            "quantize it without moments"
        )
    if not np.finfo(np.float32).tiny < mean < np.inf:
        raise MomentsError(f"the mean second moment is {mean}: out of the range of float32")
    limit = ASYMMETRY * float(diagonal.max())
    for i in range(0, len(array), TILE):
        if np.abs(array[i : i + TILE] - array[:, i : i + TILE].T).max() > limit:
            raise MomentsError("the second moments are not symmetric: they are no mean of x x^T")
    return mean


def _all(values: Iterator[Any]) -> bool:
    return all(bool(value) for value in values)


def _strips(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A few rows at a time: what is computed of them is small."""
    return (array[i : i + TILE] for i in range(0, len(array), TILE))


def _cut(n: int) -> list[tuple[int, int]]:
    """Ranges of TILE rows."""
    return [(i, min(i + TILE, n)) for i in range(0, n, TILE)]


def _cholesky_from_the_end(a: NDArray[Any], threads: int | None) -> None:
    """Replace symmetric `a` by the upper triangular R with a = R R^T, in place, tile by tile. Raises
    MomentsError where it is not positive definite.
    """
    n = len(a)
    for stop in range(n, 0, -TILE):
        start = max(stop - TILE, 0)
        tile = slice(start, stop)
        corner = _upper_root(a[tile, tile])
        a[tile, tile] = corner
        a[tile, :start] = 0
        inverse = np.linalg.inv(corner.astype(np.float64)).T.astype(a.dtype)

        def panel(i: int, last: int, tile: slice = tile, inverse: NDArray[Any] = inverse) -> None:
            a[i:last, tile] = a[i:last, tile] @ inverse

        def upper_half(i: int, last: int, tile: slice = tile, start: int = start) -> None:
            a[i:last, i:start] -= a[i:last, tile] @ a[i:start, tile].T

        run(panel, _cut(start), threads)
        run(upper_half, _cut(start), threads)


def _upper_root(corner: NDArray[Any]) -> NDArray[Any]:
    """R of a small matrix: Cholesky's factor of the matrix turned round, turned back. Of `corner`, the upper
    triangle counts.
    """
    upper = np.triu(corner.astype(np.float64))
    whole = upper + np.triu(upper, 1).T
    try:
        lower = np.linalg.cholesky(whole[::-1, ::-1])
    except np.linalg.LinAlgError as error:
        raise MomentsError(
            "the second moments are not positive definite, even with damping: they are no mean of x x^T, or "
            "need more damping"
        ) from error
    return lower[::-1, ::-1].astype(corner.dtype)


def _invert_upper(r: NDArray[Any], threads: int | None) -> None:
    """Replace an upper triangular matrix by its inverse, in place: halves, each inverted, and what joins
    them.
    """
    n = len(r)
    if n <= TILE:
        r[:] = np.triu(np.linalg.inv(r.astype(np.float64)))
        return
    middle = (n // TILE + 1) // 2 * TILE
    if middle >= n:
        middle = n // 2
    top, bottom = slice(0, middle), slice(middle, n)
    _invert_upper(r[top, top], threads)
    _invert_upper(r[bottom, bottom], threads)
    joined = np.empty((middle, n - middle), r.dtype)

    def right(i: int, last: int) -> None:
        np.matmul(r[i:last, bottom], r[bottom, bottom], out=joined[i:last])

    def left(i: int, last: int) -> None:
        r[i:last, bottom] = -(r[i:last, top] @ joined)

    run(right, _cut(middle), threads)
    run(left, _cut(middle), threads)
