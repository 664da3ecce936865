"""Parses the header of a GGUF file, checking every length against the bytes that remain.

`parse` rejects malformed files, which do not follow the grammar (`grammar.py` is its formal twin), and stops
where a file passes a limit. `rules.py` checks well-formed headers, and `writer.py` builds them. All integers
are Python's, so that no sum or product overflows.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from gguflow.container.limits import DEFAULT_LIMITS, MAX_DIMS, MAX_EXTRA_DIMS, Limits
from gguflow.container.metadata import SCALAR_CODES, Metadata, Value, ValueType
from gguflow.container.sniffing import looks_like
from gguflow.container.strings import ChainBrokenError, StringArray, decode_text, find_strings, quoted
from gguflow.errors import FileError, Finding, InvalidError, LimitError, MalformedError, UnsupportedError

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SMALLEST_KEY_VALUE = 8 + 4 + 1  # an empty key, a type, one byte
_SMALLEST_TENSOR_INFO = 8 + 4 + 4 + 8  # an empty name, no dimensions, a type, an offset
_TENSOR_INFO_ENDS = tuple(struct.Struct(f"<{n_dims}QIQ") for n_dims in range(MAX_DIMS + 1))
"""What follows n_dims in a tensor info: dimensions, type, offset."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An entry of the tensor table.

    name: of the tensor.
    dims: as in the file, row length first.
    type_id: id of its block format.
    offset: of its data, from the start of the data section.
    position: of this entry, from the start of the file; 0 if it is not written yet.
    """

    name: str
    dims: tuple[int, ...]
    type_id: int
    offset: int
    position: int = field(default=0, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """In NumPy order: row length last."""
        return self.dims[::-1]

    @property
    def n_weights(self) -> int:
        return math.prod(self.dims)


@dataclass(frozen=True)
class Header:
    """Everything before the data section; offsets are from the start of the file.

    version: of GGUF.
    metadata: keys and values in file order.
    tensors: the tensor table.
    alignment: of the data of tensors.
    data_offset: start of the data section.
    key_positions: of each metadata key.
    end: of the header, before its padding.
    """

    version: int
    metadata: Metadata
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    key_positions: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    end: int = field(default=0, compare=False)

    def detached(self, content: memoryview, file: str) -> Header:
        """The same header in memory of its own: its arrays refer to the file no more, which can be unmapped,
        replaced or cut short.

        content: what it was parsed from. file: named in errors.
        """
        return parse(bytes(content[: self.data_offset]), file)


def without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as files store it: without leading ones, but with at least one dimension if it has any."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def align(offset: int, alignment: int) -> int:
    """The next multiple of alignment at or after offset."""
    return -(-offset // alignment) * alignment


class _Parser:
    """A position in a buffer that only moves over existing bytes."""

    def __init__(self, buffer: memoryview, file: str, limits: Limits) -> None:
        self.buffer = buffer
        self.file = file
        self.limits = limits
        self.position = 0
        self.n_extra_dims = 0

    @property
    def remaining(self) -> int:
        return len(self.buffer) - self.position

    def fail(
        self,
        rule: str,
        message: str,
        path: str,
        found: object = None,
        expected: object = None,
        at: int | None = None,
        error: type[FileError] = MalformedError,
    ) -> NoReturn:
        offset = self.position if at is None else at
        raise error(self.file, Finding(rule, message, path, offset, found, expected))

    def limit(self, rule: str, what: str, found: int, most: int, path: str, at: int | None = None) -> None:
        """Stop where a number that has been read is over a limit; the bytes hold what it promises."""
        if found > most:
            message = f"more {what} than the limit"
            self.fail(rule, message, path, found, f"{most} or fewer", at, LimitError)

    def need(self, nbytes: int, what: str, path: str) -> None:
        """The next bytes, which must be there and in what a header may have."""
        if nbytes > self.remaining:
            self.fail("C-004", f"truncated: {what} needs {nbytes} bytes, {self.remaining} remain", path)
        if self.position + nbytes > self.limits.header_bytes:
            self.limit("C-025", "bytes of header", self.position + nbytes, self.limits.header_bytes, "$")

    def u32(self, what: str, path: str) -> int:
        self.need(4, what, path)
        self.position += 4
        return int(_U32.unpack_from(self.buffer, self.position - 4)[0])

    def u64(self, what: str, path: str) -> int:
        self.need(8, what, path)
        self.position += 8
        return int(_U64.unpack_from(self.buffer, self.position - 8)[0])

    def count(self, what: str, path: str, smallest: int) -> int:
        """A u64 count of things of at least `smallest` bytes each, which must fit in the remaining bytes."""
        at = self.position
        count = self.u64(what, path)
        if count * smallest > self.remaining:
            self.fail(
                "C-004",
                f"{what} {count} needs at least {count * smallest} bytes, {self.remaining} remain",
                path,
                at=at,
            )
        return count

    def text(self, what: str, path: str) -> str:
        at = self.position
        length = self.count(f"length of {what}", path, 1)
        self.limit("C-023", "bytes in a string", length, self.limits.string_bytes, path, at)
        self.need(length, what, path)
        self.position += length
        return decode_text(self.buffer[self.position - length : self.position])

    def value_type(self, path: str) -> ValueType:
        number = self.u32("value type", path)
        try:
            return ValueType(number)
        except ValueError:
            self.fail("C-006", "unknown metadata value type", path, number, "0 to 12", at=self.position - 4)

    def value(self, path: str) -> Value:
        kind = self.value_type(path + ".type")
        if kind is ValueType.STRING:
            return Value(kind, self.text("string", path))
        if kind is not ValueType.ARRAY:
            return Value(kind, self.scalars(kind, 1, path)[0])
        element_type = self.value_type(path + ".element_type")
        if element_type is ValueType.ARRAY:
            self.fail("C-007", "an array of arrays", path, at=self.position - 4)
        if element_type is ValueType.STRING:
            return Value(kind, self.strings(path), element_type)
        size = struct.calcsize("<" + SCALAR_CODES[element_type])
        return Value(kind, self.scalars(element_type, self.length(path, size), path), element_type)

    def length(self, path: str, smallest: int) -> int:
        """The length of an array whose elements have at least `smallest` bytes."""
        at = self.position
        count = self.count("array length", path, smallest)
        self.limit("C-028", "elements in an array", count, self.limits.n_elements, path, at)
        self.need(count * smallest, "an array", path)
        return count

    def scalars(self, kind: ValueType, count: int, path: str) -> Sequence[Any]:
        """`count` numbers: a tuple of few, or a NumPy view of the file for many."""
        dtype = np.dtype("<" + SCALAR_CODES[kind])
        self.need(count * dtype.itemsize, f"{count} values", path)
        start = self.position
        self.position += count * dtype.itemsize
        if count > 64:
            view = np.frombuffer(self.buffer, dtype, count, start)
            bad = np.flatnonzero(view > 1) if kind is ValueType.BOOL else np.empty(0, np.intp)
            if bad.size:
                self.fail(
                    "C-008",
                    "a bool that is neither 0 nor 1",
                    path,
                    int(view[bad[0]]),
                    "0 or 1",
                    at=start + int(bad[0]),
                )
            return view.astype(bool) if kind is ValueType.BOOL else view  # type: ignore[return-value]
        numbers = struct.unpack_from(f"<{count}{SCALAR_CODES[kind]}", self.buffer, start)
        if kind is ValueType.BOOL:
            for i, number in enumerate(numbers):
                if number > 1:
                    self.fail("C-008", "a bool that is neither 0 nor 1", path, number, "0 or 1", at=start + i)
            return tuple(map(bool, numbers))
        return numbers

    def strings(self, path: str) -> StringArray:
        count = self.length(path, 8)
        try:
            starts, self.position = find_strings(self.buffer, self.position, count)
        except ChainBrokenError as broken:
            message = f"truncated: string {broken.index} of {count} passes the end of the file"
            self.fail("C-004", message, f"{path}[{broken.index}]", at=broken.position)
        self.need(0, "an array", path)
        return StringArray(self.buffer, starts)

    def tensors(self, count: int) -> tuple[TensorInfo, ...]:
        """The tensor table. What is as usual is read at once; all else step by step, to say what is wrong."""
        buffer, end = self.buffer, min(len(self.buffer), self.limits.header_bytes)
        longest = min(end, self.limits.string_bytes)
        result: list[TensorInfo] = []
        for i in range(count):
            start = self.position
            name_end = start + 8 + _U64.unpack_from(buffer, start)[0] if start + 8 <= end else end
            if name_end + 4 <= end and name_end - start - 8 <= longest:
                n_dims = _U32.unpack_from(buffer, name_end)[0]
                if n_dims <= MAX_DIMS and name_end + 16 + 8 * n_dims <= end:
                    name = str(buffer[start + 8 : name_end], "utf-8", "surrogateescape")
                    *dims, type_id, offset = _TENSOR_INFO_ENDS[n_dims].unpack_from(buffer, name_end + 4)
                    self.position = name_end + 16 + 8 * n_dims
                    result.append(TensorInfo(name, tuple(dims), type_id, offset, start))
                    continue
            result.append(self.tensor(i))
        return tuple(result)

    def tensor(self, i: int) -> TensorInfo:
        path = f"$.tensors[{i}]"
        position = self.position
        name = self.text("tensor name", path + ".name")
        n_dims = self.u32("number of dimensions", path + ".n_dims")
        self.need(n_dims * 8, f"{n_dims} dimensions", path + ".dims")
        self.n_extra_dims += max(n_dims - MAX_DIMS, 0)
        if self.n_extra_dims > MAX_EXTRA_DIMS:
            self.fail(
                "C-014",
                "too many dimensions",
                path + ".n_dims",
                n_dims,
                f"{MAX_DIMS} or fewer",
                at=self.position - 4,
                error=InvalidError,
            )
        dims = struct.unpack_from(f"<{n_dims}Q", self.buffer, self.position)
        self.position += n_dims * 8
        type_id = self.u32("type", path + ".type")
        offset = self.u64("offset", path + ".offset")
        return TensorInfo(name, dims, type_id, offset, position)


def parse(buffer: bytes | memoryview, file: str, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Parse the header at the start of a file's bytes.

    buffer: the whole file, or the available part of it; arrays in the result are views of it.
    file: its name, for messages.
    limits: where to stop.

    Raises MalformedError if the bytes do not follow the grammar, UnsupportedError for another version or byte
    order, LimitError over a limit, InvalidError for tens of thousands of dimensions (C-014).
    """
    parser = _Parser(memoryview(buffer), file, limits)
    magic = bytes(parser.buffer[:4])
    if magic != MAGIC[: len(magic)]:
        parser.fail(
            "C-001", f"not a GGUF file{looks_like(bytes(parser.buffer[:512]))}", "$.magic", magic, MAGIC
        )
    parser.need(4, "the magic", "$.magic")
    parser.position = 4
    version = parser.u32("the version", "$.version")
    if version & 0xFFFF == 0 and version:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        finding = Finding(
            "C-003",
            "a big-endian file; only little-endian is supported",
            "$.version",
            4,
            f"version {swapped} byte-swapped",
        )
        raise UnsupportedError(file, finding)
    if version not in (2, VERSION):
        raise UnsupportedError(
            file, Finding("C-002", "an unsupported version of GGUF", "$.version", 4, version, "2 or 3")
        )
    n_tensors = parser.count("number of tensors", "$.n_tensors", _SMALLEST_TENSOR_INFO)
    n_keys = parser.count("number of metadata keys", "$.n_kv", _SMALLEST_KEY_VALUE)
    parser.limit("C-027", "tensors", n_tensors, limits.n_tensors, "$.n_tensors", 8)
    parser.limit("C-026", "metadata keys", n_keys, limits.n_keys, "$.n_kv", 16)
    metadata: Metadata = {}
    positions: dict[str, int] = {}
    for i in range(n_keys):
        position = parser.position
        key = parser.text("metadata key", f"$.metadata[{i}].key")
        if key in metadata:
            parser.fail("C-010", f"duplicate metadata key {quoted(key)}", f"$.metadata[{i}].key", at=position)
        metadata[key] = parser.value(f"$.metadata[{quoted(key)}]")
        positions[key] = position
    tensors = parser.tensors(n_tensors)
    alignment = declared_alignment(metadata)
    return Header(
        version, metadata, tensors, alignment, align(parser.position, alignment), positions, parser.position
    )


def declared_alignment(metadata: Metadata) -> int:
    """general.alignment if it is valid (rule C-011 checks it), otherwise the default."""
    value = metadata.get("general.alignment")
    if value is None or value.type is not ValueType.UINT32 or value.value == 0:
        return DEFAULT_ALIGNMENT
    return int(value.value)
