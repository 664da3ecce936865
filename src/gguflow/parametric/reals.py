"""Scales as they are stored: binary32, binary16 or bfloat16, little-endian."""

from __future__ import annotations

import numpy as np

from gguflow.arrays import Bytes, Floats
from gguflow.parametric.axes import ScaleType


def to_bytes(values: Floats, scale_type: ScaleType) -> Bytes:
    """The bytes of values that the type represents exactly."""
    if scale_type is ScaleType.F32:
        return values.astype("<f4", copy=False).view(np.uint8)
    if scale_type is ScaleType.F16:
        return values.astype("<f2").view(np.uint8)
    return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)


def from_bytes(section: Bytes, scale_type: ScaleType) -> Floats:
    if scale_type is ScaleType.F32:
        return np.frombuffer(section.tobytes(), "<f4").astype(np.float32, copy=False)
    if scale_type is ScaleType.F16:
        return np.frombuffer(section.tobytes(), "<f2").astype(np.float32)
    return (np.frombuffer(section.tobytes(), "<u2").astype(np.uint32) << 16).view(np.float32)


def round_to_type(values: Floats, scale_type: ScaleType) -> Floats:
    """Round to the scale type, ties to even, and clamp to its largest finite value."""
    if scale_type is ScaleType.F16:
        return np.clip(values, np.float32(-65504), np.float32(65504)).astype(np.float16).astype(np.float32)
    if scale_type is ScaleType.BF16:
        exact = values.view(np.uint32).astype(np.uint64)
        bits = (exact + 0x7FFF + ((exact >> 16) & 1)) & 0xFFFF0000
        largest = (bits & 0x7FFFFFFF) == 0x7F800000
        return np.where(largest, bits - 0x10000, bits).astype(np.uint32).view(np.float32)
    return values
