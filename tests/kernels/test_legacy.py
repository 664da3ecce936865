"""What is peculiar to the formats of one level of scales: signed zeros and peaks, overflow on the way to a
code, importance over whole rows.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.blocks import FORMATS
from gguflow.quantization import SMALLEST_PIECE, dequantize, quantize
from testing import ggml
from testing.cases import adversarial, importances

f32 = np.float32
SYMMETRIC = ["q4_0", "q5_0"]
AFFINE = ["q4_1", "q5_1"]
WEIGHTED = SYMMETRIC + AFFINE


def assert_as_ggml(x: NDArray[np.float32], name: str, importance: NDArray[np.float32] | None = None) -> None:
    ours, theirs = (
        quantize(x, name, importance, allow_non_finite=True),
        ggml.quantize(x, FORMATS[name], importance),
    )
    bad = np.flatnonzero((ours != theirs).any(axis=1))
    assert bad.size == 0, f"rows {bad[:5]} of {len(x)}"


@pytest.mark.parametrize("name", SYMMETRIC)
def test_of_two_peaks_the_first_gives_the_sign(name: str) -> None:
    """Every pair of places for a positive and a negative peak."""
    places = list(itertools.permutations(range(32), 2))
    x = np.full((len(places), 32), 0.1, f32)
    for row, (positive, negative) in zip(x, places, strict=True):
        row[positive], row[negative] = 0.75, -0.75
    assert_as_ggml(x, name)
    signs = np.signbit(quantize(x, name)[:, :2].copy().view("<f2")[:, 0])
    assert (signs == [positive < negative for positive, negative in places]).all()


@pytest.mark.parametrize("name", AFFINE)
def test_a_minimum_of_zero_has_the_sign_of_the_first_zero(name: str) -> None:
    rng = np.random.default_rng(3)
    x = np.where(
        rng.random((256, 32)) < 0.2,
        rng.choice(np.array([0.0, -0.0], f32), (256, 32)),
        rng.random((256, 32), f32),
    )
    assert_as_ggml(x.astype(f32), name)
    zeros = rng.choice(np.array([0.0, -0.0], f32), (64, 32))
    assert_as_ggml(zeros, name)
    assert (
        np.signbit(quantize(zeros, name)[:, 2:4].copy().view("<f2")[:, 0]) == np.signbit(zeros[:, 0])
    ).all()


@pytest.mark.parametrize("name", [*WEIGHTED, "q8_0", "q1_0", "q2_0", "tq1_0", "tq2_0"])
def test_scales_from_the_smallest_to_the_largest_float(name: str) -> None:
    """1/d overflows at one end, high - low and sums at the other."""
    rng = np.random.default_rng(4)
    exponents = np.linspace(-149, 127.9, 2048)[:, None]
    x = np.clip(np.exp2(exponents) * rng.uniform(-1, 1, (2048, 256)), -3.4e38, 3.4e38).astype(f32)
    assert_as_ggml(x, name)
    assert_as_ggml(np.abs(x), name)


@pytest.mark.parametrize("name", WEIGHTED)
def test_importance_on_adversarial_rows(name: str) -> None:
    n = 256
    rows = np.stack(list(adversarial(n).values()))
    for importance in importances(n).values():
        assert_as_ggml(rows, name, importance)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("shape", [(1, 32), (3, 96), (16, 64), (37, 160)])
def test_importance_weighs_by_the_row(name: str, shape: tuple[int, int]) -> None:
    """Rows of very different size, in numbers that fill the lanes and that do not."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)) * 3)).astype(f32)
    assert_as_ggml(x, name, rng.random(shape[1]).astype(f32))


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_long_row_is_not_cut(name: str) -> None:
    rng = np.random.default_rng(6)
    n = SMALLEST_PIECE + 64
    x = (rng.standard_normal((2, n)) * np.linspace(0.01, 3, n)).astype(f32)
    importance = rng.random(n).astype(f32)
    assert_as_ggml(x, name, importance)
    assert (
        quantize(x.astype(np.float16), name, importance, threads=2)
        == quantize(x.astype(np.float16), name, importance)
    ).all()


@pytest.mark.parametrize("name", ["f16", "bf16", "q8_0"])
def test_output_anywhere_in_memory(name: str) -> None:
    """Decoders begin at a cache line where they can: the same floats from every start, and nothing written
    outside.
    """
    rng = np.random.default_rng(7)
    packed = quantize(rng.standard_normal((1, 96)).astype(f32), name)
    expected = dequantize(packed, name)
    buffer = np.empty(96 + 64, f32)
    for start in range(17):
        buffer[:] = 7
        dequantize(packed, name, out=buffer[start : start + 96].reshape(1, 96))
        assert (buffer[start : start + 96] == expected[0]).all()
        assert (buffer[:start] == 7).all() and (buffer[start + 96 :] == 7).all()
