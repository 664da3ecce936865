"""Rotary position embeddings: their metadata, and Llama 3's frequency factors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata, f32, string, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.documents import Document

DEFAULT_THETA = 10_000.0
"""transformers' default."""


def rope_parameters(config: Document) -> Document:
    """The rope parameters: transformers 5 writes `rope_parameters`, older versions `rope_scaling`."""
    return config.section("rope_scaling" if "rope_scaling" in config else "rope_parameters")


def rope_type(config: Document) -> str:
    """default, linear, dynamic, yarn or llama3. Raises UnsupportedError (M-005) for any other."""
    parameters = rope_parameters(config)
    kind = parameters.text("rope_type", parameters.text("type", "default")).lower()
    known = ("default", "linear", "dynamic", "yarn", "llama3")
    if kind not in known:
        message = "unknown scaling of rotary embeddings"
        raise UnsupportedError(
            config.file,
            Finding("M-005", message, parameters.at("rope_type"), found=kind, expected=", ".join(known)),
        )
    return kind


def rope_metadata(name: str, config: Document) -> Metadata:
    """`{name}.rope.*` as llama.cpp's converter writes them; "dynamic" and "llama3" have no scaling key."""
    parameters = rope_parameters(config)
    kind = rope_type(config)
    metadata: Metadata = {}
    if kind in ("linear", "yarn") and "factor" in parameters:
        metadata[f"{name}.rope.scaling.type"] = string(kind)
        metadata[f"{name}.rope.scaling.factor"] = f32(parameters.number("factor"))
    if kind == "yarn" and "factor" in parameters:
        metadata[f"{name}.rope.scaling.original_context_length"] = u32(_original_context_length(config))
        if "extrapolation_factor" in parameters:
            metadata[f"{name}.rope.scaling.yarn_ext_factor"] = f32(parameters.number("extrapolation_factor"))
        for key in ("attention_factor", "attn_factor"):
            if key in parameters:
                metadata[f"{name}.rope.scaling.yarn_attn_factor"] = f32(parameters.number(key))
                break
        for key in ("beta_fast", "beta_slow"):
            if key in parameters:
                metadata[f"{name}.rope.scaling.yarn_{key}"] = f32(parameters.number(key))
    metadata[f"{name}.rope.freq_base"] = f32(_theta(config))
    return metadata


def llama3_factors(config: Document, head_dim: int) -> NDArray[np.float32]:
    """The divisors of llama.cpp's rotary frequencies, float32[head_dim / 2].

    Llama 3.1's scaling (transformers: `_compute_llama3_parameters`): wavelengths below original /
    high_freq_factor are unchanged, those above original / low_freq_factor are stretched by `factor`, and
    those between by a blend of both. All in binary32, in the order of llama.cpp's converter, which uses
    torch: there `number / tensor` is the tensor's reciprocal times the number. Only the power is rounded once
    from binary64; torch's is sometimes off by one unit in the last place (never for base 500000 with head_dim
    64 or 128, which published models use).
    """
    parameters = rope_parameters(config)
    factor = np.float32(parameters.number("factor", 8.0))
    low, high = parameters.number("low_freq_factor", 1.0), parameters.number("high_freq_factor", 4.0)
    original = _original_context_length(config)
    if factor <= 0 or low <= 0 or high <= low:
        found = {"factor": float(factor), "low_freq_factor": low, "high_freq_factor": high}
        raise parameters.wrong("rope_type", found, "factor > 0 and 0 < low_freq_factor < high_freq_factor")
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequency = np.float32(1) / np.power(_theta(config), exponent.astype(np.float64)).astype(np.float32)
    wavelength = (np.float32(1) / frequency) * np.float32(2 * math.pi)
    smooth = ((np.float32(1) / wavelength) * np.float32(original) - np.float32(low)) / np.float32(high - low)
    blend = np.float32(1) / ((np.float32(1) - smooth) / factor + smooth)
    return np.where(
        wavelength < original / high, np.float32(1), np.where(wavelength > original / low, factor, blend)
    ).astype(np.float32)


def _theta(config: Document) -> float:
    theta = rope_parameters(config).number("rope_theta", config.number("rope_theta", DEFAULT_THETA))
    if theta <= 0:
        raise config.wrong("rope_theta", theta, "a positive number")
    return theta


def _original_context_length(config: Document) -> int:
    """The context length of the model's training before it was extended."""
    key = "original_max_position_embeddings"
    if key in config:
        return config.integer(key)
    return rope_parameters(config).integer(key, config.integer("max_position_embeddings"))
