"""The last check of a model: every name and value in it can be stored in a GGUF file."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gguflow.container.limits import MAX_DIMS
from gguflow.container.metadata import SCALAR_CODES, Value, ValueType
from gguflow.container.rules import MAX_NAME_BYTES
from gguflow.errors import Finding, InvalidError, UnsupportedError
from gguflow.models.base import Model
from gguflow.sources.base import json_path


def check_storable(model: Model, path: Path) -> None:
    """Check that GGUF can store the names and values of a model; path is for messages.

    Raises InvalidError if a tensor's name is longer than 63 bytes or not valid Unicode (M-014), or if a value
    does not fit its type (M-030); UnsupportedError if a tensor has more than four dimensions (M-061).
    """
    for tensor in model.tensors:
        n_bytes = _utf8_bytes(tensor.name)
        if n_bytes is None:
            raise InvalidError(
                path, Finding("M-014", "a tensor's name is not valid Unicode", found=tensor.name)
            )
        if n_bytes > MAX_NAME_BYTES:
            message = (
                f"the tensor name {tensor.name!r} is too long for GGUF; "
                "--strip-prefix PREFIX removes a common prefix"
            )
            raise InvalidError(
                path,
                Finding("M-014", message, found=f"{n_bytes} bytes", expected=f"at most {MAX_NAME_BYTES}"),
            )
        if len(tensor.stored_shape) > MAX_DIMS:
            message = (
                f"{tensor.name} has {len(tensor.shape)} dimensions, and a GGUF file takes {MAX_DIMS}; leave "
                "it out (--skip-tensor), or reshape it in the checkpoint"
            )
            found, source = list(tensor.shape), path if tensor.source is None else tensor.source.file.path
            raise UnsupportedError(
                source, Finding("M-061", message, json_path(tensor.name, "shape"), found=found)
            )
    for key, value in model.metadata.items():
        if _utf8_bytes(key) is None or not _fits(value):
            raise InvalidError(
                path,
                Finding(
                    "M-030",
                    f"the value of {key} cannot be stored",
                    found=value.value,
                    expected=_describe(value),
                ),
            )


def _fits(value: Value) -> bool:
    if value.type is ValueType.ARRAY:
        return value.element_type is not None and _all_fit(value.element_type, value.value)
    return _all_fit(value.type, (value.value,))


def _all_fit(kind: ValueType, values: Iterable[Any]) -> bool:
    try:
        if kind is ValueType.STRING:
            return _utf8_bytes("".join(value for value in values if not isinstance(value, bytes))) is not None
        values = tuple(values)
        struct.pack(f"<{len(values)}{SCALAR_CODES[kind]}", *values)
    except (struct.error, OverflowError, TypeError):
        return False
    return True


def _utf8_bytes(text: str) -> int | None:
    """The UTF-8 bytes of a text, or None if it has lone surrogates, which only JSON can represent."""
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return None


def _describe(value: Value) -> str:
    if value.element_type is not None:
        return f"an array of {value.element_type.name.lower()}"
    return value.type.name.lower()
