"""Error feedback: as its reference computes it, equal to plain rounding where inputs are not correlated,
better than it where they are, never worse after descent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflow.arrays import Bytes, Floats
from gguflow.errors import GguflowError, MomentsError, NonFiniteError, ShapeError, UsageError
from gguflow.fidelity import feedback, reference_feedback, search
from gguflow.fidelity.feedback import quantize_with_moments
from gguflow.fidelity.grids import GRIDS
from gguflow.fidelity.moments import Factor, factor
from gguflow.fidelity.packing import pack
from gguflow.quantization import dequantize, quantize
from testing.search_weights import random_moments, weights

SMALL = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "nvfp4"]
"""Formats whose blocks fit into the columns within which no matrices are multiplied."""


def form(x: Floats, packed: Bytes, key: str, known: Factor) -> float:
    return sum(
        reference_feedback.form(row, values, known)
        for row, values in zip(x, dequantize(packed, key), strict=True)
    )


def by_reference(x: Floats, known: Factor, key: str, passes: int) -> Bytes:
    rows = [reference_feedback.quantize_row(row, known, GRIDS[key], passes) for row in x]
    return np.stack([pack(GRIDS[key], units) for units in rows])


@pytest.mark.parametrize("kind", ["normal", "outliers", "uneven", "sparse"])
@pytest.mark.parametrize("key", SMALL)
def test_one_block_of_columns_is_equal_to_the_bit(key: str, kind: str) -> None:
    """Up to 128 columns feedback passes no error on by a product of matrices."""
    x = weights(kind, 3, 128)
    known = factor(random_moments(128))
    packed = quantize_with_moments(x, known, key, passes=0, row_gain="never").packed
    assert (packed == by_reference(x, known, key, 0)).all()


@pytest.mark.parametrize("key", GRIDS)
def test_the_form_is_that_of_the_reference(key: str) -> None:
    """Sums in another order, and a scale that falls to the other side: within 3 %."""
    x = weights("normal", 4, 768)
    known = factor(random_moments(768))
    for passes in (0, 1):
        ours = quantize_with_moments(x, known, key, passes=passes, row_gain="never").packed
        theirs = by_reference(x, known, key, passes)
        assert form(x, ours, key, known) == pytest.approx(form(x, theirs, key, known), rel=0.03)


@pytest.mark.parametrize("key", GRIDS)
def test_without_correlation_it_is_plain_rounding(key: str) -> None:
    """With damping the diagonal is 4: sums are rounded as they are with ones."""
    x = weights("heavy tails", 5, 768)
    plain = pack(GRIDS[key], search.fit(x.reshape(-1), GRIDS[key])).reshape(5, -1)
    found = quantize_with_moments(x, np.eye(768) * 8, key, damping=3.0, row_gain="never", measure=True)
    assert (found.packed == plain).all()
    assert found.report.plain == pytest.approx(found.report.final, rel=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    key=st.sampled_from(sorted(GRIDS)),
    rows=st.integers(1, 20),
    gain=st.sampled_from(["never", "where_lower"]),
)
@settings(max_examples=30, deadline=None)
def test_nothing_worsens_the_form(seed: int, key: str, rows: int, gain: Any) -> None:
    """Descent does not, nor does the row gain; the report says what the bytes have."""
    x = weights("heavy tails", rows, 256, seed)
    known = factor(random_moments(256, seed))
    fed = quantize_with_moments(x, known, key, passes=0, row_gain="never")
    forms = [form(x, fed.packed, key, known)]
    for passes in (1, 4):
        found = quantize_with_moments(x, known, key, passes=passes, row_gain=gain)
        forms.append(form(x, found.packed, key, known))
        assert found.report.final == pytest.approx(forms[-1], rel=1e-3)
        assert found.report.fed == pytest.approx(forms[0], rel=1e-3)
    assert forms[1] <= forms[0] * (1 + 1e-4)
    assert forms[2] <= forms[0] * (1 + 1e-4)


@pytest.mark.parametrize("key", GRIDS)
def test_what_it_gains(key: str) -> None:
    """The form of ggml's encoding, of plain rounding, after feedback, after descent: each clearly less."""
    x = weights("normal", 32, 1024)
    known = factor(random_moments(1024))
    found = quantize_with_moments(x, known, key, measure=True)
    report = found.report
    assert report.plain is not None and report.weights is not None
    assert report.plain < form(x, quantize(x, key), key, known)
    assert report.fed < 0.9 * report.plain
    assert report.final < 0.95 * report.fed
    assert report.final == pytest.approx(form(x, found.packed, key, known), rel=1e-3)
    exact = sum(reference_feedback.form(row, np.zeros(1024, np.float32), known) for row in x)
    assert report.weights == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("key", ["q2_k", "q3_k", "tq2_0"])
def test_row_gain_undoes_shrinkage(key: str) -> None:
    x = weights("normal", 16, 512)
    known = factor(random_moments(512))

    def found(gain: Any) -> tuple[float, float, int]:
        """The mean share of the rows in what was decoded, the form, the number of rows."""
        done = quantize_with_moments(x, known, key, row_gain=gain)
        y = dequantize(done.packed, key).astype(np.float64)
        h = known.damped.astype(np.float64)
        share = np.einsum("ri,ij,rj->r", y, h, x) / np.einsum("ri,ij,rj->r", x, h, x)
        return float(np.abs(share - 1).mean()), done.report.final, done.report.n_gained

    never, lower, always = (found(gain) for gain in ("never", "where_lower", "always"))
    assert always[0] < 0.3 * never[0]
    assert lower[1] <= never[1]
    assert never[2] == 0 and always[2] > 0


def test_row_gain_is_for_coarse_formats_only() -> None:
    x, h = weights("normal", 16, 512), random_moments(512)
    never, always = (quantize_with_moments(x, h, "q4_k", row_gain=gain) for gain in ("never", "always"))
    assert (never.packed == always.packed).all()


def test_dead_columns_keep_their_weights() -> None:
    x, h = weights("normal", 4, 512), random_moments(512)
    h[:40], h[:, :40] = 0, 0
    found = quantize_with_moments(x, h, "q4_k", measure=True)
    y = dequantize(found.packed, "q4_k")
    assert found.report.n_dead == 40
    assert np.square(x[:, :40] - y[:, :40]).sum() < 0.02 * np.square(x[:, :40]).sum()


@pytest.mark.parametrize("rows", [0, 1, 15, 17, feedback.ROWS, feedback.ROWS + 1])
def test_rows_are_independent(rows: int) -> None:
    """Of each other, of the pieces that they are in, and of threads."""
    x, known = weights("normal", feedback.ROWS + 1, 160), factor(random_moments(160))
    whole = quantize_with_moments(x, known, "q4_0", threads=1).packed
    part = quantize_with_moments(x[:rows], known, "q4_0", threads=3).packed
    assert part.shape == (rows, 90)
    assert (part != whole[:rows]).mean() < 0.01 if rows else True


def test_the_bytes_do_not_depend_on_threads() -> None:
    x, known = weights("normal", 3 * feedback.ROWS, 640), factor(random_moments(640))
    one, three = (quantize_with_moments(x, known, "q4_0", threads=threads) for threads in (1, 3))
    assert (one.packed == three.packed).all()
    assert one.report == three.report


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"moments": np.eye(64)}, ShapeError),
        ({"moments": np.zeros((96, 96))}, MomentsError),
        ({"moments": np.full((96, 96), np.nan)}, MomentsError),
        ({"weights": np.zeros((2, 3, 96), np.float32)}, ShapeError),
        ({"weights": np.zeros(96, np.float32)}, ShapeError),
        ({"weights": np.zeros((2, 80), np.float32)}, ShapeError),
        ({"weights": np.full((2, 96), np.inf, np.float32)}, NonFiniteError),
        ({"weights": np.full((2, 96), 1e30, np.float32)}, NonFiniteError),
        ({"format": "iq1_s"}, UsageError),
        ({"passes": -1}, UsageError),
        ({"damping": 0.0}, UsageError),
        ({"row_gain": "sometimes"}, UsageError),
        ({"threads": 0}, UsageError),
    ],
)
def test_refused(changes: dict[str, Any], error: type[GguflowError]) -> None:
    call = {"weights": weights("normal", 2, 96), "moments": random_moments(96), "format": "q4_0", **changes}
    with pytest.raises(error):
        quantize_with_moments(**call)
