"""Rotary position embeddings: pairs of a head's features rotate with the position, each at its frequency.

    angle(position, i) = position * f_i,    f_i = base ** (-2 i / d) / factor_i

Lower frequencies allow longer contexts than a model was trained on: `linear` divides all frequencies by one
factor, Llama 3.1 each by its own (the tensor rope_freqs), YaRN only the low ones, with a ramp in between, and
scales the vectors up slightly (Peng et al., arXiv:2309.00071; llama.cpp: ggml_rope_ext and the use of
yarn_attn_factor in llama_context).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gguflow.arrays import Doubles, Floats
from gguflow.errors import Finding, InvalidError
from gguflow.inference.hyperparameters import ROTATED_PAIRS, Hyperparameters, keys_of
from gguflow.inference.keys import Keys

if TYPE_CHECKING:
    from gguflow.runtime import Model

Rotation = tuple[Floats, Floats]
"""Cosine and sine, each float32[positions, 1, d / 2]."""


@dataclass(frozen=True)
class Rope:
    """The rotary embeddings of a model.

    frequencies: float64[d / 2], radians per position.
    magnitude: factor for rotated vectors.
    pairs: whether "adjacent" features or "halves" of a head are rotated together.
    """

    frequencies: Doubles
    magnitude: float
    pairs: str

    @classmethod
    def of(cls, model: Model, sizes: Hyperparameters) -> Rope:
        """Read from metadata. Raises UnsupportedError (X-003: unknown scaling), InvalidError (X-004)."""
        keys = keys_of(model)
        pairs = ROTATED_PAIRS[sizes.architecture]
        base = keys.number("rope.freq_base", 10_000.0, above=1.0)
        frequencies = base ** -(np.arange(0, sizes.head_dim, 2, dtype=np.float64) / sizes.head_dim)
        if sizes.architecture == "llama" and "rope_freqs.weight" in model:
            frequencies = frequencies / _factors(model, sizes)
        kind = keys.text("rope.scaling.type", "linear")
        factor = (
            keys.number(
                "rope.scaling.factor", keys.number("rope.scale_linear", 0.0, or_zero=True), or_zero=True
            )
            or 1.0
        )
        magnitude = keys.number("rope.scaling.attn_factor", 1.0)
        if kind == "none":
            return cls(frequencies, magnitude, pairs)
        if kind not in ("linear", "yarn"):
            raise keys.unsupported(
                "X-003",
                "rope.scaling.type",
                "unknown scaling of rotary embeddings",
                kind,
                "none, linear, yarn",
            )
        stretched = frequencies / factor
        if kind == "yarn":
            kept = _unscaled_share(keys, sizes, base) * keys.number(
                "rope.scaling.yarn_ext_factor", 1.0, or_zero=True
            )
            stretched = stretched * (1 - kept) + frequencies * kept
            magnitude *= keys.number("rope.scaling.yarn_attn_factor", max(1.0, 1 + 0.1 * math.log(factor)))
        return cls(stretched, magnitude, pairs)

    def rotation(self, first: int, n: int) -> Rotation:
        """The rotation for positions first to first + n - 1."""
        angles = np.arange(first, first + n, dtype=np.float64)[:, None, None] * self.frequencies
        return (np.cos(angles) * self.magnitude).astype(np.float32), (np.sin(angles) * self.magnitude).astype(
            np.float32
        )

    def rotate(self, x: Floats, rotation: Rotation) -> Floats:
        """Rotate x, float32[positions, heads, d], into a new array."""
        cosine, sine = rotation
        half = x.shape[-1] // 2
        first, second = (
            (slice(0, None, 2), slice(1, None, 2))
            if self.pairs == "adjacent"
            else (slice(0, half), slice(half, None))
        )
        rotated = np.empty_like(x)
        a, b = x[..., first], x[..., second]
        rotated[..., first] = a * cosine - b * sine
        rotated[..., second] = a * sine + b * cosine
        return rotated


def _factors(model: Model, sizes: Hyperparameters) -> Floats:
    """Llama 3.1's divisors, float32[d / 2]. Raises InvalidError (X-004)."""
    tensor = model["rope_freqs.weight"]
    factors: Floats = tensor.dequantize().reshape(-1).astype(np.float32)
    if factors.shape != (sizes.head_dim // 2,) or not (np.isfinite(factors) & (factors > 0)).all():
        message = "rope_freqs.weight must have a positive factor for each pair of a head's features"
        raise InvalidError(
            model.path,
            Finding("X-004", message, "$.tensors", found=list(tensor.shape), expected=[sizes.head_dim // 2]),
        )
    return factors


def _unscaled_share(keys: Keys, sizes: Hyperparameters, base: float) -> Doubles:
    """YaRN's ramp, float64[d / 2]: 1 (unscaled) for beta_fast or more rotations in the original context, 0
    for beta_slow or fewer.
    """
    original = keys.number("rope.scaling.original_context_length", sizes.context_length)

    def pair_that_turns(times: float) -> float:
        return sizes.head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(0, math.floor(pair_that_turns(keys.number("rope.scaling.yarn_beta_fast", 32.0))))
    high = min(
        sizes.head_dim - 1, math.ceil(pair_that_turns(keys.number("rope.scaling.yarn_beta_slow", 1.0)))
    )
    ramp = (np.arange(sizes.head_dim // 2) - low) / max(0.001, high - low)
    kept: Doubles = 1 - np.clip(ramp, 0, 1)
    return kept
