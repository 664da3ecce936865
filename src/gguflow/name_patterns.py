"""Regular expressions over tensor names (--tensor-type, --skip-tensor), in a time that no pattern makes long.

Python's matcher tries one way after another, and for "(a+)+b" the number of ways doubles with every letter of
the name. This one follows all ways at once: what has been matched so far is a set of positions in the name,
kept as the bits of an integer, and every part of the pattern turns one set into another. The syntax is that
of Python's `re`, without back-references, look-behind and atomic groups, and with the POSIX classes
that llama.cpp's regular expressions have ([[:digit:]]).
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from gguflow.arguments import shown
from gguflow.errors import UsageError

MAX_LENGTH = 1000
"""Characters of a pattern; llama.cpp's own names have at most 63."""

MAX_DEPTH = 20
"""Groups inside each other."""

MAX_REPEATS = 4
"""Repetitions and looks ahead inside each other: each may multiply the time by the length of a name."""

_FLAGS = re.IGNORECASE | re.ASCII
_COUNT = re.compile(r"\{(?=[0-9,])([0-9]*)(,?)([0-9]*)\}")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|0[0-7]{0,2}|[0-7]{3}|.)", re.DOTALL)
_GROUP = re.compile(r"\((\?(:|=|!|P<\w+>))?")
_WITHOUT_WIDTH = ("^", "$", "\\b", "\\B", "\\A", "\\Z")

Step = Callable[["_Name", int], int]
"""Positions before a part of the pattern -> positions after it."""


@dataclass(frozen=True)
class NamePattern:
    """A pattern that is searched for in names, in any case.

    pattern: as it was written.
    """

    pattern: str

    def __post_init__(self) -> None:
        """Raises UsageError for what is no regular expression, and for one that is too large."""
        _ = self._step

    def search(self, name: str) -> bool:
        """Whether the pattern matches part of a name."""
        return self._step(_Name(name), (1 << len(name) + 1) - 1) != 0

    @functools.cached_property
    def _step(self) -> Step:
        if len(self.pattern) > MAX_LENGTH:
            raise UsageError(
                f"a regular expression has at most {MAX_LENGTH} characters, not {len(self.pattern)}"
            )
        try:
            text = without_posix_classes(self.pattern)
            _compiled(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"{error} in the regular expression {shown(self.pattern)}") from None
        return _Reader(text).whole()


_POSIX = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "d": "0-9",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    "s": r"\s",
    "space": r"\s",
    "upper": "A-Z",
    "w": r"\w",
    "xdigit": "0-9a-fA-F",
}
"""The classes of characters, as Python writes them between brackets."""

_CLASS_IN_CLASS = re.compile(r"\[([:.=])(.*?)\1\]")


def without_posix_classes(text: str) -> str:
    """The pattern with its POSIX classes written out: [0-9_] for [[:digit:]_]. Raises re.error for one that
    there is not, and for one without brackets around it.
    """
    found: list[str] = []
    at, is_inside = 0, False
    while at < len(text):
        inner = _CLASS_IN_CLASS.match(text, at)
        is_class = inner is not None and inner[1] == ":" and inner[2] in _POSIX
        if inner is not None and is_class and not is_inside:
            raise re.error(f"{inner[0]} without brackets around it; write [{inner[0]}]")
        if inner is not None and is_inside:
            if not is_class:
                raise re.error(f"there is no class {inner[0]}; known: {', '.join(_POSIX)}")
            found.append(_POSIX[inner[2]])
            at = inner.end()
            continue
        width = 2 if text[at] == "\\" else 1
        if not is_inside and text[at] == "[":
            is_inside = True
            width = 3 if text.startswith("[^]", at) else 2 if text[at + 1 : at + 2] in ("]", "^") else 1
        elif is_inside and text[at] == "]":
            is_inside = False
        found.append(text[at : at + width])
        at += width
    return "".join(found)


class _Name:
    """A name, and where in it the single parts of patterns match."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._places: dict[re.Pattern[str], int] = {}
        self._matches: dict[tuple[Step, int], bool] = {}

    def places(self, part: re.Pattern[str]) -> int:
        """The positions at which a part matches that has one character, or none."""
        found = self._places.get(part)
        if found is None:
            found = sum(1 << i for i in range(len(self.text) + 1) if part.match(self.text, i))
            self._places[part] = found
        return found

    def matches(self, step: Step, position: int) -> bool:
        """Whether a part matches at a position, as the bit of it; looked for once, whatever looks ahead."""
        found = self._matches.get((step, position))
        if found is None:
            found = self._matches[step, position] = step(self, position) != 0
        return found


class _Reader:
    """Turns the text of a pattern that Python has compiled into steps."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> Step:
        step, _ = self._alternatives()
        return step

    def _alternatives(self) -> tuple[Step, int]:
        """Sequences with | between them, up to a closing bracket or the end; and how deep it repeats."""
        found = [self._sequence()]
        while self._next() == "|":
            self._at += 1
            found.append(self._sequence())
        steps = [step for step, _ in found]
        return (steps[0] if len(steps) == 1 else _any_of(steps)), max(depth for _, depth in found)

    def _sequence(self) -> tuple[Step, int]:
        steps: list[Step] = []
        deepest = 0
        while self._next() not in ("", "|", ")"):
            step, depth = self._repeated(*self._part())
            steps.append(step)
            deepest = max(deepest, depth)
        return _one_after_another(steps), deepest

    def _part(self) -> tuple[Step, int]:
        """A group or a single part."""
        if self._next() != "(":
            return _single(self._single()), 0
        start = _GROUP.match(self._text, self._at)
        if start is None or (self._text.startswith("(?", self._at) and start[1] is None):
            self._refuse("a group that is not (...), (?:...), (?=...), (?!...) or (?P<name>...)")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} groups inside each other")
        self._at = start.end()
        step, depth = self._alternatives()
        self._at += 1
        self._depth -= 1
        if start[2] in ("=", "!"):
            return _ahead(step, is_wanted=start[2] == "="), self._deeper(depth)
        return step, depth

    def _single(self) -> str:
        """The text of one character, class or anchor."""
        start = self._at
        if self._next() == "[":
            self._at += 2 if self._text.startswith("[^", start) else 1
            while self._next() != "]" or self._at == start + 1 + self._text.startswith("[^", start):
                self._at += 2 if self._next() == "\\" else 1
            self._at += 1
        elif escape := _ESCAPE.match(self._text, start):
            if escape[1][0] in "123456789" and len(escape[1]) < 3:
                self._refuse("a back-reference")
            self._at = escape.end()
        else:
            self._at += 1
        return self._text[start : self._at]

    def _repeated(self, step: Step, depth: int) -> tuple[Step, int]:
        """The part with the count that follows it, if one does."""
        sign = self._next()
        count = _COUNT.match(self._text, self._at)
        least: int
        most: int | None
        if sign and sign in "*+?":
            least, most = int(sign == "+"), 1 if sign == "?" else None
            self._at += 1
        elif count is not None:
            least = int(count[1] or 0)
            most = int(count[3]) if count[3] else None if count[2] else least
            self._at = count.end()
        else:
            return step, depth
        if self._next() == "+":
            self._refuse("a possessive count")
        self._at += self._next() == "?"  # which of several matches is found makes no difference
        return _repetition(step, least, most), self._deeper(depth)

    def _deeper(self, depth: int) -> int:
        if depth == MAX_REPEATS:
            self._refuse(f"more than {MAX_REPEATS} repetitions inside each other")
        return depth + 1

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{what}, at character {self._at + 1} of {shown(self._text)}, is not supported")


def _compiled(text: str) -> re.Pattern[str]:
    """Python's matcher, without its warnings of what classes may mean one day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(text, _FLAGS)


def _single(text: str) -> Step:
    part = _compiled(text)
    width = int(text not in _WITHOUT_WIDTH)
    return lambda name, before: (before & name.places(part)) << width


def _one_after_another(steps: list[Step]) -> Step:
    def follow(name: _Name, before: int) -> int:
        for step in steps:
            if not before:
                break
            before = step(name, before)
        return before

    return follow


def _any_of(steps: list[Step]) -> Step:
    def follow(name: _Name, before: int) -> int:
        after = 0
        for step in steps:
            after |= step(name, before)
        return after

    return follow


def _ahead(step: Step, *, is_wanted: bool) -> Step:
    """The positions from which a part matches, or does not; each is looked at by itself."""

    def follow(name: _Name, before: int) -> int:
        places = (1 << i for i in range(before.bit_length()) if before >> i & 1)
        return sum(place for place in places if name.matches(step, place) is is_wanted)

    return follow


def _repetition(step: Step, least: int, most: int | None) -> Step:
    def follow(name: _Name, before: int) -> int:
        for _ in range(least):
            after = step(name, before)
            if after == before:  # nothing changes any more, and for none nothing comes
                break
            before = after
        seen = new = before
        n = least
        while new and (most is None or n < most):
            new = step(name, new) & ~seen
            seen |= new
            n += 1
        return seen

    return follow
