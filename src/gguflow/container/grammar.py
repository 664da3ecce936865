"""The grammar of a GGUF v3 header, executable: construct parses and builds exactly what `header.py` does,
slowly and from the text of the spec.

It says what is well-formed; `rules.py` says what is allowed. A test holds it and the fast parser to the same
verdict and the same tree.
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

# An array holds values of one scalar type, strings among them; there are no arrays of arrays.
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
"""From the first byte of the file. `rest` is the padding and the data section."""


def complaint(data: bytes) -> str:
    """What keeps bytes from being a header with whatever behind it, in construct's words; "" where nothing
    does.
    """
    try:
        HEADER.parse(data)
    except (
        ConstructError,
        OverflowError,
    ) as error:  # OverflowError: a length that no buffer of this machine can have
        return str(error) or type(error).__name__
    return ""
