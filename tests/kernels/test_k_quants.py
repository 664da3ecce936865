"""K-quants where their searches leave the ordinary: overflow, cancellation, codes that wrap. ggml and the
reference must still agree to the bit.

The conformance suite has the ordinary; these rows reach the branches that it does not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.blocks import FORMATS, BlockFormat
from gguflow.quantization import quantize
from testing import ggml
from testing.cases import adversarial, importances
from testing.encoding import assert_same_bytes, reference_encode

N = 1024
K_QUANTS = [pytest.param(FORMATS[name], id=name) for name in ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")]


def special_importances() -> dict[str, NDArray[np.float32] | None]:
    """Those of the conformance suite, one that spans most of what is allowed, and one that leaves a single
    weight of each sub-block to fit.
    """
    very_wide = np.exp(np.clip(np.random.default_rng(5).standard_normal(N) * 20, -80, 44)).astype(np.float32)
    one_in_16 = np.where(np.arange(N) % 16, 0, 1).astype(np.float32)
    return {"none": None, **importances(N), "very wide": very_wide, "one in 16": one_in_16}


IMPORTANCES = special_importances()


def any_floats(n_rows: int, seed: int) -> NDArray[np.float32]:
    """float32[n_rows, N], every exponent as likely as any other; what is not finite becomes 0."""
    bits = np.random.default_rng(seed).integers(0, 1 << 32, (n_rows, N), dtype=np.uint32)
    x = bits.view(np.float32)
    return np.where(np.isfinite(x), x, np.float32(0))


def near_constant(n_rows: int, seed: int) -> NDArray[np.float32]:
    """float32[n_rows, N], runs of 16 that differ in their last bits only: sums cancel, determinants and
    scales come out of rounding.
    """
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.standard_normal((n_rows, N // 16)), 16, axis=1).astype(np.float32)
    return (level.view(np.int32) + rng.integers(-2, 3, (n_rows, N), dtype=np.int32)).view(np.float32)


def spread(n_rows: int, seed: int) -> NDArray[np.float32]:
    """float32[n_rows, N], magnitudes over some twenty decades."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n_rows, N)) * np.exp(rng.standard_normal((n_rows, N)) * 8)).astype(
        np.float32
    )


def negative_spread(n_rows: int, seed: int) -> NDArray[np.float32]:
    """The minimum of a trial moves up to the weights that matter, and leaves the others millions of codes
    below 0.
    """
    return -np.abs(spread(n_rows, seed))


ROWS = [
    pytest.param(any_floats(64, 1), id="any floats"),
    pytest.param(near_constant(64, 2), id="near constant"),
    pytest.param(spread(64, 4), id="spread"),
    pytest.param(np.stack(list(adversarial(N).values())), id="adversarial"),
]


@pytest.mark.parametrize("block_format", K_QUANTS)
@pytest.mark.parametrize(
    "importance", [pytest.param(w, id=name) for name, w in IMPORTANCES.items() if name != "one in 16"]
)
@pytest.mark.parametrize("x", ROWS)
def test_encode_equals_ggml(
    block_format: BlockFormat, importance: NDArray[np.float32] | None, x: NDArray[np.float32]
) -> None:
    assert_same_bytes(
        quantize(x, block_format, importance, allow_non_finite=True),
        ggml.quantize(x, block_format, importance),
        block_format,
    )


@pytest.mark.parametrize("block_format", K_QUANTS)
@pytest.mark.parametrize(
    ("rows", "importance"),
    [
        pytest.param(any_floats, "none", id="any floats"),
        pytest.param(any_floats, "wide", id="any floats, wide importance"),
        pytest.param(near_constant, "none", id="near constant"),
        pytest.param(near_constant, "one-hot", id="near constant, one-hot importance"),
        pytest.param(spread, "very wide", id="spread, very wide importance"),
        # codes beyond 2**22 in a search: ggml asserts that there are none, and builds of it without
        # assertions differ; ours are those of GCC's
        pytest.param(negative_spread, "one in 16", id="negative spread, importance of one in 16"),
    ],
)
def test_encode_equals_reference(
    block_format: BlockFormat, rows: Callable[[int, int], NDArray[np.float32]], importance: str
) -> None:
    weights = IMPORTANCES[importance]
    x = rows(2, 3)
    expected = np.concatenate([reference_encode(block_format, row, weights) for row in x])
    assert_same_bytes(quantize(x, block_format, weights, allow_non_finite=True), expected, block_format)
