"""Quantizing without keeping the bytes: the floats that quantize and dequantize give, bit for bit, from any
float type, in place too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gguflow
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.errors import NonFiniteError, ShapeError, UsageError
from gguflow.quantization import SMALLEST_PIECE
from testing.cases import adversarial, importances
from testing.encoding import WEIGHT_FORMATS

OTHERS = {name: f for name, f in FORMATS.items() if name not in WEIGHT_FORMATS}
weight_formats = pytest.mark.parametrize("block_format", WEIGHT_FORMATS.values(), ids=WEIGHT_FORMATS)


def bits(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x.view(np.uint32)


@weight_formats
def test_equals_both_ways_after_each_other(block_format: BlockFormat) -> None:
    """All rows that encoders find hard; with importance where the format takes it."""
    n = 2048
    x = np.stack(list(adversarial(n).values()))
    for weights in (None,) if block_format.importance == "unused" else importances(n).values():
        packed = gguflow.quantize(x, block_format, weights, allow_non_finite=True)
        expected = gguflow.dequantize(packed, block_format)
        found = gguflow.fake_quantize(x, block_format, weights, allow_non_finite=True)
        assert np.array_equal(bits(found), bits(expected))


@weight_formats
def test_in_place_in_pieces_on_threads(block_format: BlockFormat) -> None:
    """More than a piece, in a row that is longer than one; every source type that quantize takes."""
    n = SMALLEST_PIECE + 4096
    x = np.random.default_rng(1).standard_normal((2, n), np.float32)
    weights = importances(n)["random"] if block_format.importance == "required" else None
    expected = gguflow.dequantize(gguflow.quantize(x, block_format, weights), block_format)
    assert np.array_equal(gguflow.fake_quantize(x, block_format, weights, threads=2), expected)
    half = x.astype(np.float16)
    assert np.array_equal(
        gguflow.fake_quantize(half, block_format, weights),
        gguflow.dequantize(gguflow.quantize(half, block_format, weights), block_format),
    )
    given = x.copy()
    assert gguflow.fake_quantize(given, block_format, weights, threads=2, out=given) is given
    assert np.array_equal(given, expected)


def test_out_that_overlaps_x() -> None:
    """One row on: what is read must not have been written."""
    memory = np.random.default_rng(2).standard_normal((5, SMALLEST_PIECE), np.float32)
    expected = gguflow.fake_quantize(memory[:-1].copy(), "q8_0")
    assert np.array_equal(gguflow.fake_quantize(memory[:-1], "q8_0", out=memory[1:]), expected)
    halves = memory.reshape(-1).view(np.float16)[: 4 * SMALLEST_PIECE].reshape(4, SMALLEST_PIECE)
    halves[...] = np.arange(4 * SMALLEST_PIECE).reshape(4, SMALLEST_PIECE) % 77
    expected = gguflow.fake_quantize(halves.copy(), "q8_0")
    assert np.array_equal(gguflow.fake_quantize(halves, "q8_0", out=memory[:4]), expected)
    column = np.random.default_rng(3).standard_normal((64, 64), np.float32)
    expected = gguflow.fake_quantize(column.T.copy(), "q4_0")
    assert np.array_equal(gguflow.fake_quantize(column.T, "q4_0", out=column), expected)


def test_shapes() -> None:
    assert gguflow.fake_quantize(np.zeros((0, 64), np.float32), "q8_0").shape == (0, 64)
    assert gguflow.fake_quantize(np.full(32, 127.0), "q8_0").tolist() == [127.0] * 32
    with pytest.raises(ShapeError, match="33 weights"):
        gguflow.fake_quantize(np.ones(33, np.float32), "q8_0")
    with pytest.raises(ShapeError, match="scalar"):
        gguflow.fake_quantize(1.0, "q8_0")
    with pytest.raises(ShapeError, match="out must be"):
        gguflow.fake_quantize(np.ones(32, np.float32), "q8_0", out=np.ones(32))  # type: ignore[arg-type]


@pytest.mark.parametrize("block_format", OTHERS.values(), ids=OTHERS)
def test_formats_that_round_nothing(block_format: BlockFormat) -> None:
    with pytest.raises(UsageError, match=f"{block_format} does not approximate"):
        gguflow.fake_quantize(np.ones(32, np.float32), block_format)


def test_non_finite_weights_are_refused() -> None:
    x = np.ones((3, SMALLEST_PIECE), np.float32)
    x[2, 77] = np.inf
    with pytest.raises(NonFiniteError, match=r"index \[2, 77\]"):
        gguflow.fake_quantize(x, "q4_k", threads=2)
    with pytest.raises(UsageError, match="too coarse"):
        gguflow.fake_quantize(x, "iq2_xxs")


@pytest.mark.parametrize("name", ["int8_b128", "nf4_b64_dq+zstd", "lossless", "sb:bits=3,block=16"])
def test_encodings_of_the_parametric_family(name: str) -> None:
    """Of any shape; in place too."""
    x = np.random.default_rng(4).standard_normal((3, 5, 100), np.float32)
    expected = gguflow.dequantize(gguflow.quantize(x, name), name)
    assert np.array_equal(bits(gguflow.fake_quantize(x, name, threads=2)), bits(expected))
    assert gguflow.fake_quantize(x.astype(np.float64), name).dtype == np.float32
    assert gguflow.fake_quantize(x, name, out=x) is x
    assert np.array_equal(x, expected)
