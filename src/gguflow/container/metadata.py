"""Typed metadata values of GGUF: 13 types, of which `array` has elements of one other type."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class ValueType(enum.IntEnum):
    """The type numbers of the file format."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_CODES: dict[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""The code of each type of fixed size in `struct`."""


INTEGERS = frozenset(
    ValueType(kind) for kind, code in SCALAR_CODES.items() if kind is not ValueType.BOOL and code not in "fd"
)
"""The integer types; writers have used all of them for the same key, so readers accept any."""


@dataclass(frozen=True)
class Value:
    """One metadata value with its type.

    type: of the value.
    value: int, float, bool, str (bytes if a file's string is not UTF-8), or for an array a sequence of those.
    element_type: of an array.
    """

    type: ValueType
    value: Any
    element_type: ValueType | None = None

    def __str__(self) -> str:
        return str(self.value)


Metadata = dict[str, Value]
"""Keys in file order."""


def integer_under(metadata: Metadata, key: str) -> int | None:
    """The integer, of any width, under a key, or None."""
    value = metadata.get(key)
    return int(value.value) if value is not None and value.type in INTEGERS else None


def u32(value: int) -> Value:
    return Value(ValueType.UINT32, value)


def i32(value: int) -> Value:
    return Value(ValueType.INT32, value)


def u64(value: int) -> Value:
    return Value(ValueType.UINT64, value)


def f32(value: float) -> Value:
    """A FLOAT32 value, rounded to the nearest binary32, which a reader of the file will find."""
    return Value(ValueType.FLOAT32, struct.unpack("<f", struct.pack("<f", value))[0])


def boolean(value: bool) -> Value:
    return Value(ValueType.BOOL, value)


def string(value: str | bytes) -> Value:
    return Value(ValueType.STRING, value)


def array(element_type: ValueType, values: Sequence[Any]) -> Value:
    return Value(ValueType.ARRAY, values, element_type)
