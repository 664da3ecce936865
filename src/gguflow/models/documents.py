"""The JSON and text files beside the weights, read with a size limit and checked types.

All of them are untrusted. A `Document` gives typed access to one JSON object; its errors name the file and
the key. No other module of this package uses raw JSON without checking its type.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gguflow.container.sniffing import LFS_POINTER, looks_like
from gguflow.errors import Finding, InvalidError, LimitError, MalformedError, UnsupportedError
from gguflow.models.differences import Applied
from gguflow.platform import storage_errors
from gguflow.sources import strict_json
from gguflow.sources.base import json_path, require_regular
from gguflow.sources.links import contained, is_there

MAX_FILE_NBYTES = 128 << 20
"""The size limit of a side file. The largest known tokenizer.json (262144 tokens) has 35 MB."""

MAX_INTEGER = 2**31 - 1
"""The largest hyper-parameter: llama.cpp stores them in 32 bits, and shapes are products of two."""

MAX_FLOAT32 = 3.4028234663852886e38


def read_bytes(directory: Path, name: str) -> bytes | None:
    """The content of a file in the checkpoint's directory, or None if it does not exist.

    Raises InvalidError (H-011: a link that leaves the checkpoint; H-019: one that leads to nothing; S-001:
    not a regular file), MalformedError
    (M-021: a Git LFS pointer in its place), LimitError (M-022), StorageError.
    """
    file = contained(directory, name)
    with storage_errors("read", file):
        if not is_there(file):
            return None
        require_regular(file)
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_NBYTES + 1)
    if len(content) > MAX_FILE_NBYTES:
        raise LimitError(
            file, Finding("M-022", f"larger than the {MAX_FILE_NBYTES} bytes that such a file may have")
        )
    if content.startswith(LFS_POINTER):
        raise MalformedError(file, Finding("M-021", f"not the file itself{looks_like(content[:512])}"))
    return content


def read_text(directory: Path, name: str) -> str | None:
    """The text of a UTF-8 file with newlines as line ends, or None if it does not exist.

    Raises MalformedError (M-021), and what read_bytes raises.
    """
    content = read_bytes(directory, name)
    if content is None:
        return None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(directory / name, Finding("M-021", "not UTF-8", offset=error.start)) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(directory: Path, name: str) -> Any:
    """The value in a JSON file, or None if the file does not exist.

    Raises MalformedError and LimitError (J-001 to J-009), and what read_bytes raises.
    """
    if (content := read_bytes(directory, name)) is None:
        return None
    kept = [content]
    del content  # the parser frees the bytes once it has the text
    return strict_json.parse(kept.pop(), directory / name, allow_infinity=True)


@dataclass(frozen=True)
class Document:
    """A JSON object and its location; a key whose value is null counts as absent, as in transformers.

    file: for messages.
    values: the object.
    where: its path in the file, as JSONPath.
    applied: collects the intended differences from llama.cpp that its values led to; shared by its parts.
    defaults: what keys mean that are absent; for `in`, they stay absent. A null is no absence.
    places: for keys that come from another object of the file, its path.
    tensors: of a model's configuration, the names of the tensors beside it.
    next_tokens: whether blocks that predict further tokens are wanted.
    """

    file: Path
    values: Mapping[str, Any]
    where: str = "$"
    applied: Applied = field(default_factory=Applied, repr=False, compare=False)
    defaults: Mapping[str, Any] = field(default_factory=dict, repr=False)
    places: Mapping[str, str] = field(default_factory=dict, repr=False)
    tensors: Collection[str] = field(default=(), repr=False, compare=False)
    next_tokens: bool = True

    @classmethod
    def read(cls, directory: Path, name: str) -> Document | None:
        """The object in a file, or None if the file does not exist.

        Raises MalformedError (M-021: not an object), and what read_json raises.
        """
        file = directory / name
        values = read_json(directory, name)
        if values is None and not file.exists():
            return None
        if not isinstance(values, dict):
            raise MalformedError(file, Finding("M-021", "not a JSON object", found=type(values).__name__))
        return cls(file, values)

    def with_values(self, **values: Any) -> Document:
        """The same with some values replaced, for what llama.cpp understands differently.

        values: by key.
        """
        return replace(self, values={**self.values, **values})

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def first(self, keys: Iterable[str]) -> str | None:
        """The first of some keys that has a value here, else the first that has one by default, else None.

        keys: in the order of priority.
        """
        keys = tuple(keys)
        here = next((key for key in keys if key in self), None)
        return here or next((key for key in keys if self.value(key) is not None), None)

    def value(self, key: str) -> Any:
        """What stands under a key, of any type, or its default; None if there is neither.

        key: of the value.
        """
        return self.values[key] if key in self.values else self.defaults.get(key)

    def at(self, key: str, index: int | None = None) -> str:
        """The path of a key, or of element `index` of its list."""
        return (
            self.places.get(key, self.where)
            + json_path(key).removeprefix("$")
            + ("" if index is None else f"[{index}]")
        )

    def wrong(self, key: str, found: object, expected: str, index: int | None = None) -> InvalidError:
        """The error for an invalid value (M-003), or for element `index` of a list."""
        return InvalidError(
            self.file,
            Finding(
                "M-003",
                f"the value of {key!r} cannot be used",
                self.at(key, index),
                found=found,
                expected=expected,
            ),
        )

    def missing(self, key: str) -> InvalidError:
        """The error for a missing key (M-002)."""
        return InvalidError(self.file, Finding("M-002", f"the key {key!r} is missing", self.at(key)))

    def integer(
        self, key: str, default: int | None = None, minimum: int = 1, maximum: int = MAX_INTEGER
    ) -> int:
        """The integer under a key.

        Raises InvalidError if it is absent without a default (M-002), not an integer or out of range (M-003).
        """
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise self.wrong(key, value, f"an integer from {minimum} to {maximum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The finite number under a key, as float. Raises InvalidError as `integer` does."""
        value = self._value(key, default)
        try:
            number = (
                float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
            )
        except OverflowError:
            number = math.inf
        if not abs(number) <= MAX_FLOAT32:
            raise self.wrong(key, value, "a finite number in the range of float32")
        return number

    def flag(self, key: str, default: bool | None = None) -> bool:
        """The boolean under a key. Raises InvalidError as `integer` does."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """The string under a key. Raises InvalidError as `integer` does."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, value, "a string")
        return value

    def require(self, key: str, known: Container[str], rule: str, message: str) -> None:
        """Raise UnsupportedError for a string under a key that is not one of those known; absent is fine.

        key: of the string.
        known: all that is supported.
        rule, message: of the error.
        """
        if key in self and (found := self.text(key)) not in known:
            raise UnsupportedError(self.file, Finding(rule, message, self.at(key), found=found))

    def section(self, key: str) -> Document:
        """The object under a key, empty if absent. Raises InvalidError (M-003)."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        return Document(self.file, value, self.at(key), self.applied)

    def items(self, key: str) -> list[Any]:
        """The list under a key, empty if absent. Raises InvalidError (M-003)."""
        value = self._value(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, value, "a list")
        return value

    def sections(self, key: str) -> Iterator[Document]:
        """The objects in the list under a key. Raises InvalidError (M-003)."""
        for index, value in enumerate(self.items(key)):
            if not isinstance(value, dict):
                raise self.wrong(key, value, "an object", index)
            yield Document(self.file, value, self.at(key, index), self.applied)

    def _value(self, key: str, default: Any) -> Any:
        value = self.value(key)
        if value is not None:
            return value
        if default is None:
            raise self.missing(key)
        return default
