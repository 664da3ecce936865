"""The entries of an exported file: each a tensor of the safetensors file and the source of its bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import FORMATS, BlockFormat
from gguflow.models.base import ModelTensor
from gguflow.models.reading import required_format

NUMBERS = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Entry:
    """A tensor of the file.

    tensor: its name, and its numbers in the order of the file.
    format: the format in which they are written.
    dtype, shape: in the file's header, if they differ from the format's name and the tensor's shape.
    """

    tensor: ModelTensor
    format: BlockFormat
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.tensor.n_weights * self.format.type_size


def numbers(tensor: ModelTensor, dtype: str) -> Entry:
    """The decoded weights; tensors of integers and of F64 are unchanged."""
    own = required_format(tensor)
    chosen = FORMATS[dtype] if own.is_quantized or own.key in NUMBERS else own
    return Entry(tensor, chosen, chosen.name, tensor.shape)


def code_entry(name: str, part: ModelTensor, dtype: str, shape: tuple[int, ...] | None = None) -> Entry:
    """A part of an encoded tensor, as it is. dtype: U8 or I8 of codes, F32 of scales."""
    tensor = replace(part, name=name)
    return Entry(
        tensor, FORMATS["f32" if dtype == "F32" else "i8"], dtype, tensor.shape if shape is None else shape
    )


def floats(name: str, values: NDArray[np.float32]) -> Entry:
    return Entry(ModelTensor(name, values.shape, values=values), FORMATS["f32"], "F32", values.shape)


def text(name: str, fields: Mapping[str, Any]) -> Entry:
    """An entry that holds JSON as bytes."""
    content = json.dumps(dict(fields)).encode("ascii")
    values = np.frombuffer(content, np.uint8)
    return Entry(ModelTensor(name, values.shape, values=values), FORMATS["i8"], "U8", values.shape)
