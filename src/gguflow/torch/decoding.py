"""Tensors of an open file as torch tensors."""

from __future__ import annotations

import numpy as np
import torch

from gguflow.errors import UsageError
from gguflow.runtime.checkpoint import CheckpointTensor
from gguflow.runtime.tensor import Rows, Tensor

Weights = Tensor | CheckpointTensor
"""A tensor of an open model, as stored or as in its checkpoint."""

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
"""torch's types for the unquantized formats."""

_DECODED = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def own_type(weights: Weights) -> torch.dtype | None:
    """The number type of an unquantized tensor; None for blocks and payloads, which need decoding."""
    stored = _stored(weights)
    return (
        None if stored.encoding is not None or stored.format is None else NUMBER_TYPES.get(stored.format.key)
    )


def format_name(weights: Weights) -> str:
    """The name of the block format, or of the parametric encoding."""
    stored = _stored(weights)
    return str(stored.format) if stored.encoding is None else stored.encoding.name


def _stored(weights: Weights) -> Tensor:
    return weights.stored if isinstance(weights, CheckpointTensor) else weights


def decode(weights: Weights, dtype: torch.dtype, rows: Rows | None = None) -> torch.Tensor:
    """Decode weights on torch's number of threads, directly for float32, float16 and bfloat16.

    weights: a tensor of an open model.
    dtype: the type of the result.
    rows: the rows to decode; None for all.

    Raises UsageError for an integer type, and what `Tensor.dequantize` raises.
    """
    require_floats(dtype)
    threads = torch.get_num_threads()
    if dtype == torch.bfloat16:  # NumPy has no such type, so its bits are used
        bits = weights.dequantize(rows, dtype="bfloat16", threads=threads)
        return torch.from_numpy(bits.view(np.int16)).view(dtype)
    return torch.from_numpy(
        weights.dequantize(rows, dtype=_DECODED.get(dtype, "float32"), threads=threads)
    ).to(dtype)


def require_floats(dtype: torch.dtype) -> None:
    """Raise UsageError unless dtype is a float type."""
    if not dtype.is_floating_point:
        raise UsageError(f"weights can only be decoded to a float type, not {dtype}")
