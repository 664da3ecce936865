"""Error feedback onto the grids of block formats: each rounding error is made up for by the columns to come,
as far as their inputs are correlated (GPTQ: E. Frantar et al., 2022, arXiv:2210.17323), with the scales of
each block fitted when its turn comes; then coordinate descent on the codes.

A row w becomes v with a small (w - v) H (w - v)^T, H the second moments of the inputs. Rows are independent
and advance in pieces of ROWS on threads, each with one thread of BLAS: the bytes do not depend on the number
of threads. They may depend on the library and the processor (`linear_algebra.description`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.arguments import integer, shown
from gguflow.arrays import Bytes, Doubles, Floats, read_only
from gguflow.blocks import BlockFormat
from gguflow.errors import ShapeError, UsageError
from gguflow.fidelity.grids import Grid, grid_of
from gguflow.fidelity.lattices import LATTICES, find_stored
from gguflow.fidelity.linear_algebra import one_thread
from gguflow.fidelity.moments import DAMPING, Factor, factor
from gguflow.fidelity.packing import Scaled, decoded, pack
from gguflow.fidelity.rows import check_held, checked_rows
from gguflow.threads import check as check_threads
from gguflow.threads import run

if TYPE_CHECKING:
    from gguflow.kernels.error_feedback import OnGrid

COLUMNS = 128
"""Columns of a block: within, errors are passed on one by one."""

SPAN = 512
"""Columns of a span of blocks: from block to block inside, errors are passed on by a small product, to the
rest of the row by a large one. A multiple of every block size.
"""

ROWS = 256
"""Rows of a piece."""

PASSES = 3
"""Of the descent over all columns, at most."""

RowGain = Literal["where_lower", "always", "never"]
"""Whether the scales of a row are multiplied by what undoes its shrinkage: where that lowers the form, always
or never. Of formats below 4 bits only.
"""


@dataclass(frozen=True)
class Report:
    """Sums of (w - v) H (w - v)^T over all rows, H with damping and scaled to a mean diagonal of 1.

    weights: the same of the weights themselves, w H w^T: what the others are relative to. None where it was
        not asked for.
    plain: with scales fitted and every weight rounded to its nearest level; None where it was not asked for.
    fed: after error feedback.
    final: after descent and row gain.
    n_gained: rows whose scales were multiplied.
    n_on_lattice: rows that lie on the grid already, and are reproduced.
    n_dead: columns whose inputs were always 0.
    """

    weights: float | None
    plain: float | None
    fed: float
    final: float
    n_gained: int
    n_on_lattice: int
    n_dead: int


@dataclass(frozen=True)
class Quantized:
    """packed: uint8[rows, row_bytes]."""

    packed: Bytes
    report: Report


def quantize_with_moments(
    weights: ArrayLike,
    moments: ArrayLike | Factor,
    format: str | BlockFormat,
    *,
    damping: float = DAMPING,
    passes: int = PASSES,
    row_gain: RowGain = "where_lower",
    measure: bool = False,
    threads: int | None = None,
) -> Quantized:
    """Quantize the rows of a matrix by error feedback and descent. Rows that lie on the grid already are
    reproduced (see `lattices`).

    weights: float32[rows, n], finite.
    moments: of the matrix's inputs, as `moments.factor` takes them, or what it returned: matrices with the
        same inputs share it.
    format: one of `grids.GRIDS`.
    damping: for `moments.factor`; without effect on a Factor.
    passes: most passes of the descent; 0 for none.
    row_gain: see RowGain.
    measure: whether to report what plain rounding would have given, too, and w H w^T.
    threads: number of threads for rows; None for all processors.

    Raises UnknownFormatError, ShapeError, UsageError, NonFiniteError (as `search.encode`), MomentsError.
    """
    check_threads(threads)
    grid = grid_of(format)
    array = checked_rows(weights, grid.block_format)
    if array.ndim != 2:
        raise ShapeError(f"weights must be float32[rows, n], not float32{list(array.shape)}")
    if row_gain not in ("where_lower", "always", "never"):
        raise UsageError(f"row_gain must be where_lower, always or never, not {shown(row_gain)}")
    passes = integer(passes, "passes", 0, 1000)
    known = moments if isinstance(moments, Factor) else factor(moments, damping, threads)
    n_rows, n = array.shape
    if known.n != n:
        raise ShapeError(f"moments of {known.n} columns do not fit rows of {n} weights")
    block_format = grid.block_format
    packed = np.empty((n_rows, block_format.row_bytes(n)), np.uint8)
    plan = _Plan(grid, known, passes, row_gain if grid.is_coarse else "never", measure)
    sums: dict[int, NDArray[np.float64]] = {}

    def work(first: int, last: int) -> None:
        rows, out = array[first:last], packed[first:last]
        is_done = np.zeros(len(rows), bool)
        sums[first] = np.zeros(6)
        if grid.format in LATTICES:
            lattice = find_stored(rows.reshape(-1), grid)
            is_done = np.all(lattice.is_on.reshape(len(rows), -1), axis=1)
            units = lattice.scaled[np.repeat(is_done, n // grid.size)]
            out[is_done] = pack(grid, units).reshape(-1, out.shape[1])
            sums[first] += _sums_on_lattice(rows[is_done], decoded(grid, units).reshape(-1, n), plan)
        if not is_done.all():
            piece = _Piece(rows[~is_done], plan)
            sums[first] += piece.run()
            out[~is_done] = pack(grid, piece.scaled()).reshape(-1, out.shape[1])
        check_held(out.reshape(-1), block_format, rows.reshape(-1), first * n, array)

    with one_thread():
        run(work, [(first, min(first + ROWS, n_rows)) for first in range(0, n_rows, ROWS)], threads)
    total = np.sum([sums[first] for first in sorted(sums)], axis=0) if sums else np.zeros(6)
    report = Report(
        weights=float(total[0]) if measure else None,
        plain=float(total[1]) if measure else None,
        fed=float(total[2]),
        final=float(total[3]),
        n_gained=int(total[4]),
        n_on_lattice=int(total[5]),
        n_dead=known.n_dead,
    )
    return Quantized(packed, report)


def _cut(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def _column_products(a: Floats, b: Floats) -> Doubles:
    """float64[R]: the inner product of each column of a with that of b."""
    products: Doubles = np.einsum("ij,ij->j", a, b, dtype=np.float64)
    return products


def _sums_on_lattice(rows: Floats, values: Floats, plan: _Plan) -> NDArray[np.float64]:
    """As `_Piece.run`, for rows that are reproduced: what is left is the rounding of their scales."""
    own = (
        float(np.einsum("ri,ri->", rows @ plan.factor.damped, rows, dtype=np.float64)) if plan.measure else 0
    )
    error: Floats = rows - values
    left = float(np.einsum("ri,ri->", error @ plan.factor.damped, error, dtype=np.float64))
    return np.array([own, left, left, left, 0, len(rows)])


@dataclass(frozen=True)
class _Plan:
    """What all pieces share."""

    grid: Grid
    factor: Factor
    passes: int
    row_gain: RowGain
    measure: bool


@dataclass
class _State:
    """Rows on the grid, transposed: column by column, R rows in each.

    d, dmin: float32[n // size, R]. scales, mins: int32[n // sub, R]. codes: uint8[n, R].
    values: float32[n, R], what they decode to.
    """

    d: Floats
    dmin: Floats
    scales: NDArray[np.int32]
    mins: NDArray[np.int32]
    codes: Bytes
    values: Floats

    def arrays(self) -> tuple[NDArray[Any], ...]:
        return self.d, self.dmin, self.scales, self.mins, self.codes, self.values

    def for_kernels(self) -> OnGrid:
        from gguflow.kernels import error_feedback

        return error_feedback.OnGrid(*(array.reshape(-1) for array in self.arrays()))

    def copy(self) -> _State:
        return _State(*(array.copy() for array in self.arrays()))

    def take(self, other: _State, rows: NDArray[np.bool_]) -> None:
        """The state of some rows from another."""
        for mine, theirs in zip(self.arrays(), other.arrays(), strict=True):
            mine[:, rows] = theirs[:, rows]


class _Piece:
    """Some rows on their way through feedback, descent and gain."""

    def __init__(self, weights: Floats, plan: _Plan) -> None:
        self._plan = plan
        self._n_rows, n = weights.shape
        padded = -(-self._n_rows // 16) * 16
        self._weights = np.zeros((n, padded), np.float32)
        self._weights[:, : self._n_rows] = weights.T
        self._product = np.empty_like(self._weights)

    def run(self) -> NDArray[np.float64]:
        """The sums that a Report holds, in its order."""
        plan = self._plan
        own, plain = np.zeros(1), np.zeros(1)
        if plan.measure:
            self._state, _ = self._fed(np.eye(self._n, dtype=np.float32), is_identity=True)
            plain = self._forms(self._slopes())
        self._state, fed = self._fed(plan.factor.inverse)
        forms, n_gained = fed, 0
        if plan.passes or plan.row_gain != "never":
            slopes = self._slopes()
            forms = self._descended(slopes, fed) if plan.passes else fed
        if plan.measure or plan.row_gain != "never":
            with_damping = plan.factor.damped @ self._weights
            own = _column_products(self._weights, with_damping)
        if plan.row_gain != "never":
            forms, n_gained = self._gain(slopes, forms, own)
        return np.array([own.sum(), plain.sum(), fed.sum(), forms.sum(), n_gained, 0])

    def _descended(self, slopes: Floats, fed: Doubles) -> Doubles:
        """The forms after descent. A row that rounding made worse stays what it was."""
        before = self._state.copy()
        self._descend(slopes)
        forms = self._forms(slopes)
        is_worse = ~(forms <= fed)
        if is_worse.any():
            self._state.take(before, is_worse)
            slopes[:] = self._slopes()
        return np.where(is_worse, fed, forms)

    def scaled(self) -> Scaled:
        """The rows as units, in their order."""
        grid, state = self._plan.grid, self._state

        def in_order(array: NDArray[Any], width: int) -> NDArray[Any]:
            return np.ascontiguousarray(array[:, : self._n_rows].T).reshape(-1, width)

        return Scaled(
            in_order(state.d, 1).reshape(-1),
            in_order(state.dmin, 1).reshape(-1),
            in_order(state.scales, grid.n_sub_blocks),
            in_order(state.mins, grid.n_sub_blocks),
            in_order(state.codes, grid.size),
        )

    @property
    def _n(self) -> int:
        return len(self._weights)

    def _spans(self) -> Iterator[tuple[int, int]]:
        return _cut(0, self._n, SPAN)

    def _fed(self, inverse: Floats, is_identity: bool = False) -> tuple[_State, Doubles]:
        """The rows after error feedback (none of it with the identity), and the form of each: the sum of the
        squares that were passed on.
        """
        from gguflow.kernels import error_feedback

        grid, rest = self._plan.grid.for_kernels(), self._weights.copy()
        state = self._new_state()
        n, padded = rest.shape
        forms: Doubles = np.zeros(padded)
        factor = self._plan.factor
        weights_of_fits = factor.diagonal if is_identity else factor.remaining
        for start, stop in self._spans():
            errors = np.empty((stop - start, padded), np.float32)
            for first, last in _cut(start, stop, COLUMNS):
                mine = errors[first - start : last - start]
                error_feedback.feed(
                    rest.reshape(-1), padded, first, last, read_only(inverse.reshape(-1)), n,
                    weights_of_fits, grid, state.for_kernels(), mine.reshape(-1),
                )  # fmt: skip
                if last < stop and not is_identity:
                    rest[last:stop] -= inverse[first:last, last:stop].T @ mine
            if stop < n and not is_identity:
                np.matmul(inverse[start:stop, stop:].T, errors, out=self._product[stop:])
                rest[stop:] -= self._product[stop:]
            forms += _column_products(errors, errors)
        return state, forms

    def _new_state(self) -> _State:
        grid, (n, padded) = self._plan.grid, self._weights.shape
        return _State(
            d=np.empty((n // grid.size, padded), np.float32),
            dmin=np.empty((n // grid.size, padded), np.float32),
            scales=np.empty((n // grid.sub, padded), np.int32),
            mins=np.empty((n // grid.sub, padded), np.int32),
            codes=np.empty((n, padded), np.uint8),
            values=np.empty((n, padded), np.float32),
        )

    def _slopes(self) -> Floats:
        """float32[n, R]: H (w - v)."""
        error: Floats = self._weights - self._state.values
        slopes: Floats = np.matmul(self._plan.factor.damped, error)
        return slopes

    def _forms(self, slopes: Floats) -> Doubles:
        """float64[R]: the form of each row."""
        return _column_products(self._weights - self._state.values, slopes)

    def _descend(self, slopes: Floats) -> None:
        """Passes over all columns, until one changes nothing; slopes are brought up to date."""
        from gguflow.kernels import error_feedback

        plan, (n, padded) = self._plan, self._weights.shape
        damped, grid = plan.factor.damped, plan.grid.for_kernels()
        for _ in range(plan.passes):
            n_changed = 0
            for start, stop in self._spans():
                local = slopes[start:stop].copy()
                changes = np.empty((stop - start, padded), np.float32)
                n_here = 0
                for first, last in _cut(start, stop, COLUMNS):
                    mine = changes[first - start : last - start]
                    found = error_feedback.descend(
                        local.reshape(-1), start, padded, first, last, read_only(damped.reshape(-1)), n,
                        grid, self._state.for_kernels(), mine.reshape(-1),
                    )  # fmt: skip
                    if found and last < stop:
                        local[last - start :] -= damped[first:last, last:stop].T @ mine
                    n_here += found
                if n_here:
                    np.matmul(damped[start:stop].T, changes, out=self._product)
                    slopes -= self._product
                n_changed += n_here
            if not n_changed:
                break

    def _gain(self, slopes: Floats, forms: Doubles, own: Doubles) -> tuple[Doubles, int]:
        """Multiply the scales of rows by what undoes their shrinkage, w H w / v H w, or by what lowers the
        form most for the codes at hand, v H w / v H v. Returns the forms, and how many rows were changed.
        """
        plan = self._plan
        mixed = own - _column_products(self._weights, slopes)  # v H w
        squares = forms - own + 2 * mixed  # v H v
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = [own / mixed, mixed / squares]
        is_changed = np.zeros(len(own), bool)
        original = self._state.copy()
        for wanted in factors[:1] if plan.row_gain == "always" else factors:
            gain = np.where(np.isfinite(wanted) & (wanted > 0.5) & (wanted < 2), wanted, 1).astype(np.float32)
            trial = self._multiplied(original, gain)
            kept, self._state = self._state, trial
            found = self._forms(self._slopes())
            self._state = kept
            better = (gain != 1) if plan.row_gain == "always" else found < forms
            self._state.take(trial, better)
            forms = np.where(better, found, forms)
            is_changed |= better
        return forms, int(is_changed[: self._n_rows].sum())

    def _multiplied(self, state: _State, gain: Floats) -> _State:
        """d and dmin of each row times its gain, rounded as they are stored; the codes stay."""
        trial = state.copy()
        with np.errstate(over="ignore"):
            trial.d = (state.d * gain).astype(np.float16).astype(np.float32)
            trial.dmin = (state.dmin * gain).astype(np.float16).astype(np.float32)
        grid, (n, padded) = self._plan.grid, self._weights.shape

        def units(array: NDArray[Any], width: int) -> NDArray[Any]:
            return array.T.reshape(-1, width)

        scaled = Scaled(
            units(trial.d, 1).reshape(-1),
            units(trial.dmin, 1).reshape(-1),
            units(trial.scales, grid.n_sub_blocks),
            units(trial.mins, grid.n_sub_blocks),
            units(trial.codes, grid.size),
        )
        trial.values = np.ascontiguousarray(decoded(grid, scaled).reshape(padded, n).T)
        return trial
