"""The grammar of a GGUF v3 header in construct: the slow, formal twin of `header.py`, written from the spec.

It defines what is well-formed; `rules.py` and `limits.py` define what is allowed. A test checks that it and
the fast parser have the same verdicts and results.
"""

from __future__ import annotations

from typing import Any

from construct import (
    Array,
    Bytes,
    Check,
    Computed,
    Const,
    ConstructError,
    Float32l,
    Float64l,
    GreedyBytes,
    Int8sb,
    Int8ub,
    Int16sl,
    Int16ul,
    Int32sl,
    Int32ul,
    Int64sl,
    Int64ul,
    OneOf,
    Struct,
    Switch,
    this,
)

from gguflow.container.metadata import ValueType

STRING = Struct("length" / Int64ul, "bytes" / Bytes(this.length))

BOOL = OneOf(Int8ub, (0, 1))

SCALARS: dict[int, Any] = {
    ValueType.UINT8: Int8ub,
    ValueType.INT8: Int8sb,
    ValueType.UINT16: Int16ul,
    ValueType.INT16: Int16sl,
    ValueType.UINT32: Int32ul,
    ValueType.INT32: Int32sl,
    ValueType.FLOAT32: Float32l,
    ValueType.BOOL: BOOL,
    ValueType.STRING: STRING,
    ValueType.UINT64: Int64ul,
    ValueType.INT64: Int64sl,
    ValueType.FLOAT64: Float64l,
}

# An array has elements of one scalar type, including strings; there are no arrays of arrays.
ARRAY = Struct(
    "element_type" / OneOf(Int32ul, [int(t) for t in SCALARS]),
    "count" / Int64ul,
    "elements" / Switch(this.element_type, {t: Array(this.count, element) for t, element in SCALARS.items()}),
)

KEY_VALUE = Struct(
    "key" / STRING,
    "type" / OneOf(Int32ul, [int(t) for t in ValueType]),
    "value" / Switch(this.type, {**SCALARS, ValueType.ARRAY: ARRAY}),
)

TENSOR_INFO = Struct(
    "name" / STRING,
    "n_dims" / Int32ul,
    "dims" / Array(this.n_dims, Int64ul),
    "type" / Int32ul,
    "offset" / Int64ul,
)

HEADER = Struct(
    "magic" / Const(b"GGUF"),
    "version" / OneOf(Int32ul, (2, 3)),
    "n_tensors" / Int64ul,
    "n_kv" / Int64ul,
    "metadata" / Array(this.n_kv, KEY_VALUE),
    "unique_keys" / Computed(lambda c: len({bytes(kv.key.bytes) for kv in c.metadata}) == len(c.metadata)),
    Check(this.unique_keys),
    "tensors" / Array(this.n_tensors, TENSOR_INFO),
    "rest" / GreedyBytes,
)
"""A whole file; `rest` is the padding and the data section."""


def complaint(data: bytes) -> str:
    """construct's error message if bytes do not begin with a header, "" if they do."""
    try:
        HEADER.parse(data)
    except (
        ConstructError,
        OverflowError,
    ) as error:  # OverflowError: a length that exceeds every buffer of this machine
        return str(error) or type(error).__name__
    return ""
