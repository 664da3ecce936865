"""Metadata read with the types that running a model needs: a file has been judged before, but not for every
key that is read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gguflow.errors import Finding, InvalidError, UnsupportedError, printable


class Keys:
    """The keys of an open model that begin with a prefix. file: for messages."""

    def __init__(self, metadata: Mapping[str, Any], file: str, prefix: str) -> None:
        self.metadata = metadata
        self.file = file
        self.prefix = prefix

    def text(self, key: str, default: str) -> str:
        """Raises InvalidError (X-004), as all of these do for a value of another type or out of range."""
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
        """0 or more. Raises UnsupportedError (X-002) where each layer has its own."""
        value = self._value(key, default)
        if hasattr(value, "__len__") and not isinstance(value, str):
            raise self.unsupported(
                "X-002", key, "a value for each layer is not known", f"an array of {len(value)}", "one number"
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self._refuse(key, value, "an integer, 0 or more")
        return value

    def number(self, key: str, default: float, *, above: float = 0.0, or_zero: bool = False) -> float:
        """Finite, and larger than `above`; or_zero: 0 will do too."""
        value = self._value(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not (value > above or (or_zero and value == 0)):
            self._refuse(key, value, f"a number above {above:g}{' or 0' if or_zero else ''}")
        return float(value)

    def array(self, key: str) -> Sequence[Any]:
        """Empty where the key is missing."""
        value: Sequence[Any] = self._value(key, ())
        if not hasattr(value, "__len__") or isinstance(value, str):
            self._refuse(key, value, "an array")
        return value

    def require(self, key: str, only: bool | int, what: str) -> None:
        """Raises UnsupportedError (X-002) for any other value than the one that the forward pass has."""
        found = self._value(key, only)
        if not isinstance(found, int) or found != only:
            raise self.unsupported("X-002", key, f"{what}: not known", found, only)

    def unsupported(
        self, rule: str, key: str, message: str, found: object, expected: object
    ) -> UnsupportedError:
        """The error for a model that is well-formed and cannot be run."""
        return UnsupportedError(
            self.file, Finding(rule, message, self.path(key), found=_shown(found), expected=expected)
        )

    def path(self, key: str) -> str:
        """Where a key is, for findings."""
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
