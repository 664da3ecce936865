"""Second moments: the factor is that of the inverse, and what cannot be factored is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.errors import GguflowError, MomentsError, ShapeError, UsageError
from gguflow.fidelity import moments
from gguflow.fidelity.moments import factor
from testing.search_weights import random_moments


@pytest.mark.parametrize("n", [1, 31, 512, 513, 1056])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factor_of_the_inverse(n: int, dtype: type) -> None:
    found = factor(random_moments(n).astype(dtype) * 1e4)
    inverse = found.inverse.astype(np.float64)
    assert np.abs(inverse.T @ inverse @ found.damped - np.eye(n)).max() < 1e-4
    assert not np.tril(inverse, -1).any()
    assert np.trace(found.damped) / n == pytest.approx(1 + moments.DAMPING)


def test_binary32_is_enough_for_many_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    h = random_moments(700)
    exact = factor(h).inverse
    monkeypatch.setattr(moments, "DOUBLE_UP_TO", 100)
    narrow = factor(h).inverse
    assert not (narrow == exact).all()
    assert np.abs(narrow - exact).max() < 1e-4 * np.abs(exact).max()


def test_the_factor_does_not_depend_on_threads() -> None:
    h = random_moments(1100)
    assert (factor(h, threads=1).inverse == factor(h, threads=3).inverse).all()


def test_columns_that_were_always_zero() -> None:
    h = random_moments(64)
    h[[3, 40]] = 0
    h[:, [3, 40]] = 0
    found = factor(h)
    assert found.n_dead == 2
    assert np.count_nonzero(found.inverse[3]) == 1
    assert np.count_nonzero(found.inverse[:, 40]) == 1


def broken(change: Any) -> NDArray[np.float64]:
    h = random_moments(64).astype(np.float64)
    change(h)
    return h


def set_nan(h: NDArray[np.float64]) -> None:
    h[3, 5] = h[5, 3] = np.nan


def set_infinity(h: NDArray[np.float64]) -> None:
    h[3, 3] = np.inf


def set_negative(h: NDArray[np.float64]) -> None:
    h[7, 7] = -1


def set_zero(h: NDArray[np.float64]) -> None:
    h[:] = 0


def set_skew(h: NDArray[np.float64]) -> None:
    h[3, 5] += 10


def set_indefinite(h: NDArray[np.float64]) -> None:
    h[3, 5] = h[5, 3] = 100


def set_far_too_small(h: NDArray[np.float64]) -> None:
    h *= 1e-100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_nan, "NaN"),
        (set_infinity, "infinity"),
        (set_negative, "column 7"),
        (set_zero, "no token reached"),
        (set_skew, "not symmetric"),
        (set_indefinite, "not positive definite"),
        (set_far_too_small, "range"),
    ],
)
def test_moments_that_are_none(change: Any, words: str) -> None:
    with pytest.raises(MomentsError, match=words):
        factor(broken(change))


def test_rank_one_is_enough() -> None:
    """One token: singular without damping."""
    x = np.random.default_rng(0).standard_normal(64)
    assert np.isfinite(factor(np.outer(x, x)).inverse).all()


@pytest.mark.parametrize(
    ("array", "damping", "error"),
    [
        (np.ones((3, 4)), 0.1, ShapeError),
        (np.ones(4), 0.1, ShapeError),
        (np.ones((4, 4), np.int64), 0.1, ShapeError),
        (np.eye(4), 0, UsageError),
        (np.eye(4), -1, UsageError),
        (np.eye(4), np.nan, UsageError),
        (np.eye(4), np.inf, UsageError),
        (np.empty((0, 0)), 0.1, MomentsError),
    ],
)
def test_refused(array: NDArray[Any], damping: float, error: type[GguflowError]) -> None:
    with pytest.raises(error):
        factor(array, damping)
