"""Tensors of an open file as torch's."""

from __future__ import annotations

import numpy as np
import torch

from gguflow.errors import UsageError
from gguflow.runtime.checkpoint import CheckpointTensor
from gguflow.runtime.tensor import Rows, Tensor

Weights = Tensor | CheckpointTensor
"""A tensor of an open model, as it is stored or as its checkpoint had it."""

NUMBER_TYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
}
"""The unquantized formats, and torch's types for them."""

_DECODED = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def own_type(weights: Weights) -> torch.dtype | None:
    """The number type of an unquantized tensor; None for blocks and payloads, which need decoding."""
    stored = _stored(weights)
    return (
        None if stored.encoding is not None or stored.format is None else NUMBER_TYPES.get(stored.format.key)
    )


def format_name(weights: Weights) -> str:
    """Of the block format, or of the encoding of the parametric family."""
    stored = _stored(weights)
    return str(stored.format) if stored.encoding is None else stored.encoding.name


def _stored(weights: Weights) -> Tensor:
    return weights.stored if isinstance(weights, CheckpointTensor) else weights


def decode(weights: Weights, dtype: torch.dtype, rows: Rows | None = None) -> torch.Tensor:
    """The weights, or those of some rows, decoded: float32, float16 and bfloat16 directly into torch's
    memory, other float types by way of float32.

    On as many threads as torch uses. Raises UsageError for a type of integers, and what `Tensor.dequantize`
    raises.
    """
    require_floats(dtype)
    threads = torch.get_num_threads()
    if dtype == torch.bfloat16:  # NumPy has no such type: the bits
        bits = weights.dequantize(rows, dtype="bfloat16", threads=threads)
        return torch.from_numpy(bits.view(np.int16)).view(dtype)
    return torch.from_numpy(
        weights.dequantize(rows, dtype=_DECODED.get(dtype, "float32"), threads=threads)
    ).to(dtype)


def require_floats(dtype: torch.dtype) -> None:
    """Raises UsageError."""
    if not dtype.is_floating_point:
        raise UsageError(f"weights are decoded to a float type, not {dtype}")
