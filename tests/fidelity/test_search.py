"""The search for scales: kernel and reference agree to the bit, what it gains over ggml, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflow.arrays import Bytes, Floats
from gguflow.errors import NonFiniteError, ShapeError, UnknownFormatError, UsageError
from gguflow.fidelity import reference_search, search
from gguflow.fidelity.grids import GRIDS, Grid
from gguflow.fidelity.packing import decoded, pack
from gguflow.quantization import dequantize, quantize
from testing.search_weights import EXTREME, ORDINARY, weights

EVERY_GRID = [pytest.param(grid, id=key) for key, grid in GRIDS.items()]


def snr(x: Floats, y: Floats) -> float:
    """Signal to noise in dB."""
    noise = np.square(x.astype(np.float64) - y).sum()
    return float(10 * np.log10(np.square(x.astype(np.float64)).sum() / noise))


def same_bytes(x: Floats, grid: Grid, importance: Floats | None = None) -> bool:
    ours = search.fit(x.reshape(-1), grid, importance)
    reference = reference_search.fit(x.reshape(-1), grid, importance)
    return bool((pack(grid, ours) == pack(grid, reference)).all())


@pytest.mark.parametrize("kind", [*ORDINARY, *EXTREME])
@pytest.mark.parametrize("grid", EVERY_GRID)
def test_kernel_and_reference_agree(grid: Grid, kind: str) -> None:
    """Three blocks of 256 weights, and a second time with importance."""
    x = weights(kind, 1, 768 if grid.size < 256 else 512, seed=len(kind))
    assert same_bytes(x, grid)
    importance = np.random.default_rng(2).random(256).astype(np.float32)
    assert same_bytes(x[:, :256], grid, importance)


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 12), key=st.sampled_from(sorted(GRIDS)))
@settings(max_examples=40, deadline=None)
def test_kernel_and_reference_agree_on_random_blocks(seed: int, exponent: int, key: str) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_t(rng.integers(1, 8), 256) * 2.0**exponent + rng.standard_normal()).astype(np.float32)
    importance = rng.random(256).astype(np.float32) ** 3
    assert same_bytes(x, GRIDS[key], importance)


@pytest.mark.parametrize("kind", [*ORDINARY, "tiny", "large"])
@pytest.mark.parametrize("grid", EVERY_GRID)
def test_blocks_decode_to_what_was_meant(grid: Grid, kind: str) -> None:
    scaled = search.fit(weights(kind, 4, 512).reshape(-1), grid)
    assert dequantize(pack(grid, scaled), grid.format).tobytes() == decoded(grid, scaled).tobytes()


@pytest.mark.parametrize("key", GRIDS)
@pytest.mark.parametrize("kind", [*ORDINARY, "tiny"])
def test_no_block_is_worse_than_ggmls(key: str, kind: str) -> None:
    x = weights(kind, 4, 512)
    size = GRIDS[key].block_format.block_size

    def errors(packed: Bytes) -> Floats:
        difference = (x.astype(np.float64) - dequantize(packed, key)).reshape(-1, size)
        errors: Floats = np.square(difference).sum(axis=1)
        return errors

    rounding = np.square(x.astype(np.float64)).reshape(-1, size).sum(axis=1) * 2.0**-21  # of d, on a lattice
    ours, theirs = errors(search.encode(x, key)), errors(quantize(x, key))
    assert (ours <= theirs * (1 + 1e-5) + rounding).all()


GAINS = {
    "q2_k": 1.1, "q3_k": 0.35, "q4_k": 0.18, "q5_k": 0.42, "q6_k": 0.3, "q4_0": 0.4, "q5_0": 0.4,
    "q8_0": 0.75, "q4_1": 0.6, "q5_1": 0.6, "iq4_nl": 0.25, "iq4_xs": 0.28, "mxfp4": 0.2, "nvfp4": 0.4,
    "tq2_0": 3.0,
}  # fmt: skip
"""dB over ggml's encoding of Gaussian weights that are reached at least."""


@pytest.mark.parametrize(("key", "gain"), GAINS.items())
def test_gain_over_ggml(key: str, gain: float) -> None:
    x = weights("normal", 64, 1024, seed=5)
    ours, theirs = (snr(x, dequantize(packed, key)) for packed in (search.encode(x, key), quantize(x, key)))
    assert ours - theirs > gain


@pytest.mark.parametrize("key", ["q4_0", "q8_0", "q3_k", "q4_k"])
def test_importance_moves_the_error(key: str) -> None:
    x = weights("normal", 32, 512)
    importance = np.where(np.arange(512) % 16 < 4, 100, 1).astype(np.float32)
    plain, weighted = (
        np.square(x - dequantize(packed, key)) @ importance
        for packed in (search.encode(x, key), search.encode(x, key, importance))
    )
    assert weighted.sum() < 0.9 * plain.sum()


def test_columns_without_importance_are_not_given_up() -> None:
    x = weights("normal", 4, 512)
    importance = np.ones(512, np.float32)
    importance[:256] = 0
    y = dequantize(search.encode(x, "q4_k", importance), "q4_k")
    assert snr(x[:, :256], y[:, :256]) > 20
    assert (search.encode(x, "q4_k", np.zeros(512)) == search.encode(x, "q4_k")).all()


def test_the_bytes_do_not_depend_on_threads() -> None:
    x = weights("normal", 300, 1024)
    assert (search.encode(x, "q4_0", threads=1) == search.encode(x, "q4_0", threads=3)).all()


def test_shapes() -> None:
    x = weights("normal", 6, 64)
    packed = search.encode(x.reshape(2, 3, 64), "q8_0")
    assert packed.shape == (2, 3, 68)
    assert (packed.reshape(6, 68) == search.encode(x, "q8_0")).all()
    assert search.encode(np.empty((0, 64), np.float32), "q8_0").shape == (0, 68)


@pytest.mark.parametrize(
    ("x", "format", "importance", "error", "words"),
    [
        (weights("normal", 2, 48), "q4_0", None, ShapeError, "48"),
        (weights("normal", 2, 64).astype(np.float64), "q4_0", None, ShapeError, "float32"),
        (weights("normal", 2, 64), "iq2_s", None, UnknownFormatError, "IQ2_S"),
        (weights("normal", 2, 64), "q4_9", None, UnknownFormatError, "q4_9"),
        (weights("normal", 2, 64), "q4_0", np.ones(32), ShapeError, "32"),
        (weights("normal", 2, 64), "q4_0", -np.ones(64), UsageError, "negative"),
        (np.full((2, 64), np.nan, np.float32), "q4_0", None, NonFiniteError, "0, 0"),
        (np.full((2, 64), 1e30, np.float32), "q4_0", None, NonFiniteError, "Q4_0"),
        (np.full((2, 256), 1e30, np.float32), "q4_k", None, NonFiniteError, "Q4_K"),
    ],
)
def test_refused(
    x: Floats, format: str, importance: Floats | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        search.encode(x, format, importance)
