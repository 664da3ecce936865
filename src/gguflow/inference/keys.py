"""Metadata with the types that running a model needs, which validation does not check for every key."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, SupportsIndex

from gguflow.errors import Finding, InvalidError, UnsupportedError, printable


class Keys:
    """The keys of an open model that begin with a prefix.

    metadata: of the model.
    prefix: of the keys.
    file: for messages.
    """

    def __init__(self, metadata: Mapping[str, Any], file: str, prefix: str) -> None:
        self.metadata = metadata
        self.file = file
        self.prefix = prefix

    def text(self, key: str, default: str) -> str:
        """The string under a key. Like all of these, raises InvalidError (X-004) for a wrong value."""
        value = self._value(key, default)
        if not isinstance(value, str):
            self._refuse(key, value, "a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            self._refuse(key, value, "a bool")
        return value

    def integer(self, key: str, default: int = 0) -> int:
        """The integer, 0 or more, under a key. Raises UnsupportedError (X-002) for one value per layer."""
        value = self._value(key, default)
        if hasattr(value, "__len__") and not isinstance(value, str):
            raise self.unsupported(
                "X-002",
                key,
                "separate values for each layer are not supported",
                f"an array of {len(value)}",
                "one number",
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self._refuse(key, value, "an integer, 0 or more")
        return value

    def number(self, key: str, default: float, *, above: float = 0.0, or_zero: bool = False) -> float:
        """The finite number larger than `above`, or also 0 if `or_zero`, under a key."""
        value = self._value(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not (value > above or (or_zero and value == 0)):
            self._refuse(key, value, f"a number above {above:g}{' or 0' if or_zero else ''}")
        return float(value)

    def array(self, key: str) -> Sequence[Any]:
        """The array under a key, empty if the key is missing."""
        value: Sequence[Any] = self._value(key, ())
        if not hasattr(value, "__len__") or isinstance(value, str):
            self._refuse(key, value, "an array")
        return value

    def member(self, key: str, value: object, limit: int) -> int:
        """An element of the array under a key, as an integer from 0 to limit - 1."""
        token = operator.index(value) if isinstance(value, SupportsIndex) else -1
        if isinstance(value, bool) or not 0 <= token < limit:
            self._refuse(key, value, f"integers from 0 to {limit - 1}")
        return token

    def require(self, key: str, only: bool | int, what: str) -> None:
        """Raise UnsupportedError (X-002) for any value but `only`, which the forward pass supports."""
        found = self._value(key, only)
        if not isinstance(found, int) or found != only:
            raise self.unsupported("X-002", key, f"{what}: not known", found, only)

    def unsupported(
        self, rule: str, key: str, message: str, found: object, expected: object
    ) -> UnsupportedError:
        """The error for a valid model that cannot be run."""
        return UnsupportedError(
            self.file, Finding(rule, message, self.path(key), found=_shown(found), expected=expected)
        )

    def path(self, key: str) -> str:
        """The path of a key, for findings."""
        return f"$.metadata['{printable(self.prefix)}{key}']"

    def _value(self, key: str, default: object) -> Any:
        return self.metadata.get(self.prefix + key, default)

    def _refuse(self, key: str, found: object, expected: str) -> NoReturn:
        message = "a value that a model cannot be run with"
        raise InvalidError(
            self.file, Finding("X-004", message, self.path(key), found=_shown(found), expected=expected)
        )


def _shown(found: object) -> object:
    return printable(found) if isinstance(found, str) else found
