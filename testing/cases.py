"""Rows of weights that encoders find hard, by name; each float32[n]. Every format meets all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

f32 = np.float32


def adversarial(n: int) -> dict[str, NDArray[np.float32]]:
    """n: a multiple of 32. The name says what is hard; a format whose encoder is undefined for one says so
    where it is tested.
    """
    rng = np.random.default_rng(7)
    noise = rng.standard_normal(n).astype(f32)
    ramp = np.linspace(-1, 1, n, dtype=f32)
    outlier = noise.copy()
    outlier[n // 2] *= f32(1e4)
    quiet = noise.copy()
    quiet[:32] *= f32(1e-4)
    one = np.zeros(n, f32)
    one[n // 3] = f32(-0.75)
    signs = np.where(np.arange(n) % 2, f32(0.5), f32(-0.5))
    return {
        "zero": np.zeros(n, f32),
        "negative zero": np.full(n, f32(-0.0)),
        "mixed zeros": np.where(np.arange(n) % 3, f32(0.0), f32(-0.0)),
        "constant": np.full(n, f32(0.3)),
        "negative constant": np.full(n, f32(-0.3)),
        "denormals": noise * f32(1e-40),
        "smallest denormal": np.where(np.arange(n) % 5, f32(0), f32(1e-45)),
        "scale underflows f16": noise * f32(1e-8),
        "scale near f16 denormals": noise * f32(3e-5),
        "scale overflows f16": noise * f32(1e8),
        "near float max": np.clip(noise, -1, 1) * f32(1e37),
        "max f16": np.where(np.arange(n) % 2, f32(65504), f32(-65504)),
        "outlier": outlier,
        "ramp": ramp,
        "positive ramp": ramp + f32(1),
        "negative ramp": ramp - f32(1),
        "quiet sub-block": quiet,
        "one value": one,
        "alternating signs": signs,
        "ties": (np.arange(n) % 31 - 15).astype(f32) * f32(0.5),
        "integers": (np.arange(n) % 256 - 128).astype(f32),
        "powers of two": np.ldexp(f32(1), -(np.arange(n) % 24)).astype(f32),
        "just below powers of two": np.nextafter(np.ldexp(f32(1), -(np.arange(n) % 8)).astype(f32), f32(0)),
        "heavy tails": rng.standard_t(1.5, n).astype(f32),
        "noise": noise,
        "positive noise": np.abs(noise),
        "sparse": np.where(rng.random(n) < 0.05, noise, f32(0)),
        "ternary": rng.integers(-1, 2, n).astype(f32) * f32(0.02),
    }


def importances(n: int) -> dict[str, NDArray[np.float32]]:
    """Per-column importance, float32[n]."""
    rng = np.random.default_rng(11)
    one_hot = np.zeros(n, f32)
    one_hot[n // 5] = 1
    return {
        "random": rng.random(n).astype(f32),
        "wide": np.exp(rng.standard_normal(n) * 3).astype(f32),
        "with zeros": np.where(rng.random(n) < 0.3, f32(0), rng.random(n).astype(f32)),
        "all zero": np.zeros(n, f32),
        "one-hot": one_hot,
        "uniform": np.ones(n, f32),
    }
