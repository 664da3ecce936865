"""Weights for tests of searches: ordinary, uneven, and what arithmetic trips over."""

from __future__ import annotations

import numpy as np

from gguflow.arrays import Floats


def weights(kind: str, rows: int, n: int, seed: int = 0) -> Floats:
    """float32[rows, n] of a kind."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, n)) * 0.02).astype(np.float32)
    if kind == "heavy tails":
        x = (rng.standard_t(3, (rows, n)) * 0.02).astype(np.float32)
    elif kind == "outliers":
        x[rng.random(x.shape) < 0.01] *= 30
    elif kind == "one sign":
        x = np.abs(x) + np.float32(0.05)
    elif kind == "negative":
        x = -np.abs(x)
    elif kind == "sparse":
        x[rng.random(x.shape) < 0.9] = 0
    elif kind == "zeros":
        x[:] = 0
    elif kind == "equal":
        x[:] = np.float32(0.3)
    elif kind == "tiny":
        x *= np.float32(1e-6)
    elif kind == "denormal":
        x *= np.float32(1e-38)
    elif kind == "large":
        x *= np.float32(1e5)
    elif kind == "huge":
        x *= np.float32(1e37)
    elif kind == "uneven":
        x *= (
            np.exp(rng.standard_normal((rows, n // 16, 1)) * 2)
            .astype(np.float32)
            .repeat(16, 2)
            .reshape(x.shape)
        )
    elif kind != "normal":
        raise ValueError(kind)
    return x


ORDINARY = ("normal", "heavy tails", "outliers", "one sign", "negative", "sparse", "uneven", "equal", "zeros")
EXTREME = ("tiny", "denormal", "large", "huge")


def random_moments(n: int, seed: int = 0) -> Floats:
    """float32[n, n]: second moments of correlated inputs of uneven size."""
    rng = np.random.default_rng(seed)
    few = max(n // 4, 1)
    x = rng.standard_normal((2 * n, few)) @ rng.standard_normal((few, n)) / few**0.5
    x = (x + 0.3 * rng.standard_normal(x.shape)) * np.exp(0.5 * rng.standard_normal(n))
    moments: Floats = (x.T @ x / len(x)).astype(np.float32)
    return moments
