"""Checks of arguments that the whole package shares, so that a wrong one is refused in the same words
everywhere.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from gguflow.errors import UsageError, printable

T = TypeVar("T")

MAX_SIZE = (1 << 63) - 1
"""The most bytes that a size or a limit may say: what a file system can count."""

_SHOWN = 80
"""Characters of a value that an error message shows."""
_LONGEST_WORD = 100
"""Characters of a word for which a similar one is looked for."""
_MAX_DIGITS = 40
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def shown(value: object) -> str:
    """Any value as a short text for an error message: it may be huge, and from anywhere."""
    if isinstance(value, (str, bytes, bytearray)):
        start = repr(value[: _SHOWN + 1])
        return start if len(value) <= _SHOWN else f"{value[:_SHOWN]!r} and {len(value) - _SHOWN} more"
    if isinstance(value, int) and abs(value) >> 128:
        return f"{'-' * (value < 0)}2**{abs(value).bit_length() - 1} or more"
    if value is None or isinstance(value, (int, float, complex)):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of an error message, "; did you mean X?" with the known word that is closest; "" without one.

    word: what was written.
    known: the words that it could have been.
    """
    if len(word) > _LONGEST_WORD:
        return ""
    words = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), words, n=1)
    return f"; did you mean {printable(words[close[0]])}?" if close else ""


def integer(value: object, name: str, least: int, most: int = MAX_SIZE) -> int:
    """An argument that is a whole number, also one of NumPy's; booleans are none.

    value: what was passed.
    name: of the argument.
    least: the smallest that is accepted.
    most: the largest.
    Raises UsageError.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        domain = f"{least} or more" if most == MAX_SIZE and (number or 0) <= most else f"{least} to {most}"
        raise UsageError(f"{name} must be an integer, {domain}, not {shown(value)}")
    return number


def real(value: object, name: str, least: float, most: float) -> float:
    """An argument that is a finite number, also one of NumPy's; booleans are none.

    value: what was passed.
    name: of the argument.
    least: the smallest that is accepted.
    most: the largest; infinity for any finite number.
    Raises UsageError.
    """
    try:
        is_number = hasattr(value, "__float__") and not isinstance(value, bool)
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most):
        domain = f"{least:g} or more" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise UsageError(f"{name} must be a number, {domain}, not {shown(value)}")
    return number


def choice(value: object, name: str, known: Iterable[str]) -> str:
    """An argument that is one of a few words.

    value: what was passed.
    name: of the argument.
    known: the words.
    Raises UsageError, which suggests the word that is closest.
    """
    words = list(known)
    if isinstance(value, str) and value in words:
        return value
    hint = suggestion(value, words) if isinstance(value, str) else ""
    *first, last = words
    raise UsageError(f"{name} must be {', '.join(first)} or {last}, not {shown(value)}{hint}")


def flag(value: object, name: str) -> bool:
    """An argument that is True or False, and nothing that only counts as one of them.

    value: what was passed.
    name: of the argument.
    Raises UsageError.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, not {shown(value)}")
    return value


def texts(value: object, name: str) -> tuple[str, ...]:
    """An argument that is several texts; a single text is none, though Python can list its letters.

    value: what was passed.
    name: of the argument.
    Raises UsageError.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UsageError(f"{name} must be a list or tuple of texts, not {shown(value)}")
    try:
        found = tuple(value)
    except TypeError:  # an array without an axis can be listed only by its type
        raise UsageError(f"{name} must be a list or tuple of texts, not {shown(value)}") from None
    for text in found:
        if not isinstance(text, str):
            raise UsageError(f"{name} must hold texts only, not {shown(text)}")
    return found


def optional_text(value: object, name: str) -> str | None:
    """An argument that is a text, or None.

    value: what was passed.
    name: of the argument.
    Raises UsageError.
    """
    if value is None or isinstance(value, str):
        return value
    raise UsageError(f"{name} must be a text or None, not {shown(value)}")


def instance(value: object, name: str, kind: type[T]) -> T:
    """An argument that is an object of one class.

    value: what was passed.
    name: of the argument.
    kind: the class.
    Raises UsageError.
    """
    if not isinstance(value, kind):
        raise UsageError(f"{name} must be an object of the class {kind.__name__}, not {shown(value)}")
    return value


def callback(value: object, name: str) -> None:
    """Check an argument that is something to call, or None.

    value: what was passed.
    name: of the argument.
    Raises UsageError.
    """
    if value is not None and not callable(value):
        raise UsageError(f"{name} must be a function or None, not {shown(value)}")


def file_path(value: object, name: str) -> Path:
    """An argument that names a file: text, or anything that is a path to Python and is text.

    value: what was passed.
    name: of the argument.
    Raises UsageError.
    """
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        raise UsageError(f"{name} must be a path, as text or pathlib.Path, not {shown(value)}") from None
    if isinstance(text, bytes):
        raise UsageError(f"{name} must be a path as text, not bytes; os.fsdecode makes text of it")
    if "\0" in text:
        raise UsageError(f"{name} must be a path, and no path contains the character NUL: {shown(text)}")
    if not text:
        raise UsageError(f"{name} must be a path, not an empty text")
    return Path(value)  # type: ignore[arg-type]


def number_in(text: str) -> float:
    """The number that a text of decimal digits means; infinity beyond the range of numbers.

    text: with a sign, a point and an exponent at the most, in ASCII.
    Raises ValueError.
    """
    if len(text) > _MAX_DIGITS or _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not a number")
    return float(text)
