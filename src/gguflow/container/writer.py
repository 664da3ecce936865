"""The header of a GGUF file, built in canonical form: the bytes that `header.parse` reads back the same."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from gguflow.container.header import DEFAULT_ALIGNMENT, MAGIC, VERSION, TensorInfo, align
from gguflow.container.metadata import SCALAR_CODES, Metadata, Value, ValueType
from gguflow.container.strings import encode_text

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def build(metadata: Metadata, tensors: Sequence[TensorInfo], alignment: int = DEFAULT_ALIGNMENT) -> bytes:
    """The canonical bytes of a header, zero-padded to the data section.

    metadata, tensors, alignment: of the header, which the caller has checked with `rules.judge`.

    Raises struct.error or ValueError for values that cannot be represented.
    """
    parts = [MAGIC, _U32.pack(VERSION), _U64.pack(len(tensors)), _U64.pack(len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _U32.pack(value.type), _value_bytes(value)]
    for tensor in tensors:
        parts += [
            _text(tensor.name),
            _U32.pack(len(tensor.dims)),
            struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims),
        ]
        parts += [_U32.pack(tensor.type_id), _U64.pack(tensor.offset)]
    header = b"".join(parts)
    return header.ljust(align(len(header), alignment), b"\0")


def _text(text: str) -> bytes:
    raw = encode_text(text)
    return _U64.pack(len(raw)) + raw


def _value_bytes(value: Value) -> bytes:
    if value.type is ValueType.STRING:
        return _text(value.value)
    if value.type is not ValueType.ARRAY:
        return struct.pack("<" + SCALAR_CODES[value.type], value.value)
    if value.element_type is None or value.element_type is ValueType.ARRAY:
        raise ValueError("an array needs an element type other than array")
    head = _U32.pack(value.element_type) + _U64.pack(len(value.value))
    if value.element_type is ValueType.STRING:
        return head + b"".join(map(_text, value.value))
    return head + np.asarray(value.value, "<" + SCALAR_CODES[value.element_type]).tobytes()
