"""Weights that lie on a grid are found, whatever made the grid, and come back code by code; others are not
taken for such.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.arrays import Floats
from gguflow.errors import NonFiniteError, ShapeError, UnknownFormatError
from gguflow.fidelity import feedback, lattices, reference_lattices, search
from gguflow.fidelity.grids import GRIDS
from gguflow.quantization import dequantize, quantize
from testing.search_weights import ORDINARY, random_moments, weights

X = weights("normal", 8, 1024, seed=3)


def rounded_to_bf16(x: Floats) -> Floats:
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def rounded_to_f16(x: Floats) -> Floats:
    return x.astype(np.float16).astype(np.float32)


def as_it_is(x: Floats) -> Floats:
    return x


STORED = [
    pytest.param(as_it_is, id="f32"),
    pytest.param(rounded_to_bf16, id="bf16"),
    pytest.param(rounded_to_f16, id="f16"),
]


def on_integers(x: Floats, d: NDArray[Any], low: int, high: int) -> Floats:
    steps: NDArray[Any] = d.astype(np.float32)
    on_grid: Floats = np.multiply(steps, np.clip(np.rint(x / steps), low, high), dtype=np.float32)
    return on_grid


def blocks(x: Floats, size: int) -> Floats:
    """The largest magnitude of each block of `size`, for each weight."""
    peaks: Floats = np.abs(x.reshape(len(x), -1, size)).max(axis=2, keepdims=True)
    return np.broadcast_to(peaks, (len(x), x.shape[1] // size, size)).reshape(x.shape)


def in_rows(x: Floats) -> Floats:
    peaks: Floats = np.abs(x).max(axis=1, keepdims=True)
    return peaks


LATTICES = {
    "q4_0, lowest code -8": ("q4_0", dequantize(quantize(X, "q4_0"), "q4_0")),
    "q4_0, block, 7": ("q4_0", on_integers(X, blocks(X, 32) / 7, -7, 7)),
    "q4_0, row, 7": ("q4_0", on_integers(X, in_rows(X) / 7, -7, 7)),
    "q4_0, row, clipped": ("q4_0", on_integers(X, np.full((8, 1), 0.0087, np.float32), -8, 7)),
    "q4_0, row, clipped, turned": ("q4_0", on_integers(X, np.full((8, 1), -0.0087, np.float32), -8, 7)),
    "q5_0, row": ("q5_0", on_integers(X, in_rows(X) / 15, -15, 15)),
    "q8_0, block": ("q8_0", on_integers(X, blocks(X, 32) / 127, -127, 127)),
    "q8_0, row": ("q8_0", on_integers(X, in_rows(X) / 127, -127, 127)),
    "ternary, row": ("tq2_0", on_integers(X, np.abs(X).mean(axis=1, keepdims=True), -1, 1)),
    "iq4_nl": ("iq4_nl", dequantize(quantize(X, "iq4_nl"), "iq4_nl")),
    "mxfp4": ("mxfp4", dequantize(quantize(X, "mxfp4"), "mxfp4")),
    "nvfp4": ("nvfp4", dequantize(quantize(X, "nvfp4"), "nvfp4")),
}
EXACT = ("mxfp4", "nvfp4", "q4_0, lowest code -8", "iq4_nl")
"""Whose scales the format stores exactly."""


@pytest.mark.parametrize("store", STORED)
@pytest.mark.parametrize("name", LATTICES)
def test_what_lies_on_a_lattice_is_found(name: str, store: object) -> None:
    """BF16 has as many bits as Q8_0: a few blocks could be anything."""
    key, x = LATTICES[name]
    assert callable(store)
    stored = store(x)
    found = lattices.find(stored, key)
    assert found.share > (0.9 if key == "q8_0" and store is rounded_to_bf16 else 0.99)
    back = dequantize(search.encode(stored, key), key)
    error = np.abs(back - x).reshape(-1, GRIDS[key].size)[found.is_on]
    limit = 2.0**-7 if store is rounded_to_bf16 else 2.0**-10
    assert (error <= limit * np.abs(x).reshape(-1, GRIDS[key].size)[found.is_on]).all()
    if name in EXACT and store is as_it_is:
        assert (back == x).all()


@pytest.mark.parametrize("name", ["q4_0, row, 7", "q8_0, row", "ternary, row", "mxfp4"])
def test_feedback_reproduces_lattices(name: str) -> None:
    """Rows that lie there, among rows that do not."""
    key, x = LATTICES[name]
    mixed = x.copy()
    mixed[2], mixed[5] = X[2], X[5]
    found = feedback.quantize_with_moments(mixed, random_moments(1024), key)
    assert found.report.n_on_lattice == 6
    alone = search.encode(x, key)
    is_same = (found.packed == alone).all(axis=1)
    assert is_same[[0, 1, 3, 4, 6, 7]].all() and not is_same[[2, 5]].any()


@pytest.mark.parametrize("key", lattices.LATTICES)
@pytest.mark.parametrize("store", STORED)
def test_ordinary_weights_lie_on_none(key: str, store: object) -> None:
    assert callable(store)
    for kind in ("normal", "heavy tails", "outliers", "uneven", "one sign"):
        assert lattices.find(store(weights(kind, 64, 1024)), key).share < 0.001


@pytest.mark.parametrize("key", lattices.LATTICES)
def test_kernel_and_reference_agree(key: str) -> None:
    grid = GRIDS[key]
    for x in [
        *(x[:2] for of, x in LATTICES.values() if of == key),
        *(weights(k, 1, 512) for k in ORDINARY),
    ]:
        for tolerance in (2.0**-8, 2.0**-12):
            found = lattices.find(x, key, tolerance)
            for i, block in enumerate(x.reshape(-1, grid.size)):
                expected = reference_lattices.find_block(block, grid, tolerance)
                assert found.is_on[i] == (expected is not None)
                if expected is not None:
                    assert found.scaled.d[i] == expected[0]
                    assert (found.scaled.codes[i] == expected[1]).all()


def test_the_report_in_words() -> None:
    x = X.copy()
    x[:, :512] = on_integers(X, in_rows(X) / 7, -7, 7)[:, :512]
    assert str(lattices.find(x, "q4_0")) == "50 % of the blocks lie on a Q4_0 lattice"
    assert str(lattices.find(X, "q4_0")) == "0 % of the blocks lie on a Q4_0 lattice"
    assert str(lattices.find(np.zeros((2, 32), np.float32), "q4_0")).startswith("100 %")
    assert lattices.find(np.empty((0, 32), np.float32), "q4_0").share == 0


@pytest.mark.parametrize(
    ("x", "key", "error"),
    [
        (X, "q4_k", UnknownFormatError),
        (X, "q4_1", UnknownFormatError),
        (X[:, :48], "q4_0", ShapeError),
        (np.full((1, 32), np.nan, np.float32), "q4_0", NonFiniteError),
    ],
)
def test_refused(x: Floats, key: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        lattices.find(x, key)
