r"""Regular expressions as tokenizer.json has them (Oniguruma's, with Ruby's syntax), in bounded time.

Python's `re` knows no Unicode categories, and an expression from a hostile file would keep it busy for ever.
Here an expression is a program that backtracks, and every step is counted. What is not understood (names of
scripts, back references) is an error, never a guess.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_STEPS = 400_000
"""The limit of steps for one text; known models need some ten thousand for 400 characters."""

MAX_PROGRAM = 20_000
"""The limit of instructions: a repetition {m,n} is written out."""

MAX_DEPTH = 40
"""The limit of nested groups and classes."""

Member = Callable[[str], bool]
Instruction = tuple[Any, ...]
"""What to do and with what; targets are relative, so that programs can be put one behind the other."""

_CHARACTER, _SPLIT, _JUMP, _LOOK, _ATOMIC, _ASSERT = range(6)
_HAN = (
    *((0x2E80, 0x2E99), (0x2E9B, 0x2EF3), (0x2F00, 0x2FD5), (0x3005, 0x3005), (0x3007, 0x3007)),
    *((0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFA6D)),
    *((0xFA70, 0xFAD9), (0x16FE2, 0x16FE3), (0x16FF0, 0x16FF1), (0x20000, 0x2A6DF), (0x2A700, 0x2EBE0)),
    *((0x2EBF0, 0x2EE5D), (0x2F800, 0x2FA1D), (0x30000, 0x3134A), (0x31350, 0x323AF)),
)
"""The ranges of the script Han."""
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b", "0": "\0"}
_CATEGORIES = frozenset(
    (
        *(
            "L",
            "M",
            "N",
            "P",
            "S",
            "Z",
            "C",
            "Lu",
            "Ll",
            "Lt",
            "Lm",
            "Lo",
            "Mn",
            "Mc",
            "Me",
            "Nd",
            "Nl",
            "No",
        ),
        *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp"),
        *("Cc", "Cf", "Co", "Cn"),
    )
)


class ExpressionError(ValueError):
    """An expression that is malformed or not understood, or that takes too many steps."""


@dataclass
class Expression:
    """A compiled expression.

    source: the expression; Raises ExpressionError if it is malformed, too large, or not understood.
    """

    source: str
    _program: list[Instruction] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parser = _Parser(self.source)
        self._program = parser.whole()

    def matches(self, text: str) -> Iterator[tuple[int, int]]:
        """The beginning and end of each match from left to right, none inside another.

        text: any.

        Raises ExpressionError after MAX_STEPS steps.
        """
        machine, position, last = _Machine(text), 0, -1
        while position <= len(text):
            end = machine.run(self._program, position)
            if end is None or (end == position and position == last):
                position += 1
                continue
            yield position, end
            last = end
            position = end if end > position else position + 1


class _Machine:
    """Runs programs over one text and counts their steps."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = MAX_STEPS

    def run(self, program: list[Instruction], start: int, end: int | None = None) -> int | None:
        """Where the first match from `start` on ends (at `end`, if that is given); None without one."""
        text, n = self._text, len(self._text)
        waiting = [(0, start)]
        while waiting:
            at, position = waiting.pop()
            while True:
                self._left -= 1
                if self._left < 0:
                    raise ExpressionError("too many steps")
                if at == len(program):
                    if end is None or position == end:
                        return position
                    break
                instruction = program[at]
                kind, first = instruction[0], instruction[1]
                if kind == _CHARACTER:
                    if position == n or not first(text[position]):
                        break
                    position += 1
                elif kind == _SPLIT:
                    waiting.append((at + instruction[2], position))
                    at += first
                    continue
                elif kind == _JUMP:
                    at += first
                    continue
                elif kind == _ASSERT:
                    if not first(text, position):
                        break
                elif kind == _LOOK:
                    if self._looks(instruction, position) == instruction[3]:
                        break
                else:
                    inner = self.run(first, position)
                    if inner is None:
                        break
                    position = inner
                at += 1
        return None

    def _looks(self, instruction: Instruction, position: int) -> bool:
        program: list[Instruction] = instruction[1]
        if not instruction[2]:
            return self.run(program, position) is not None
        return any(self.run(program, start, position) is not None for start in range(position, -1, -1))


class _Parser:
    """From the text of an expression to a program."""

    def __init__(self, source: str) -> None:
        self._source, self._at, self._depth, self._size = source, 0, 0, 0

    def whole(self) -> list[Instruction]:
        program = self._alternatives(False)
        if self._at < len(self._source):
            raise ExpressionError(f"unbalanced at character {self._at}")
        return program

    def _peek(self, text: str) -> bool:
        return self._source.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        found = self._peek(text)
        self._at += len(text) * found
        return found

    def _next(self) -> str:
        if self._at >= len(self._source):
            raise ExpressionError("ends too early")
        self._at += 1
        return self._source[self._at - 1]

    def _sized(self, program: list[Instruction]) -> list[Instruction]:
        self._size += len(program)
        if self._size > MAX_PROGRAM:
            raise ExpressionError("too large")
        return program

    def _alternatives(self, folds: bool) -> list[Instruction]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError("nested too deeply")
        branches = [self._sequence(folds)]
        while self._take("|"):
            branches.append(self._sequence(folds))
        self._depth -= 1
        program = branches.pop()
        for branch in reversed(branches):
            size = len(branch)
            program = self._sized([(_SPLIT, 1, size + 2), *branch, (_JUMP, len(program) + 1), *program])
        return program

    def _sequence(self, folds: bool) -> list[Instruction]:
        program: list[Instruction] = []
        while self._at < len(self._source) and self._source[self._at] not in "|)":
            if self._take("(?i)"):
                folds = True
                continue
            program += self._repeated(self._atom(folds))
        return self._sized(program)

    def _atom(self, folds: bool) -> list[Instruction]:
        character = self._next()
        if character == "(":
            return self._group(folds)
        if character == "[":
            return [(_CHARACTER, self._class(folds))]
        if character == ".":
            return [(_CHARACTER, lambda found: found != "\n")]
        if character in "^$":
            return [(_ASSERT, _line_start if character == "^" else _line_end)]
        if character in "*+?":
            raise ExpressionError(f"nothing to repeat at character {self._at - 1}")
        if character == "\\":
            letter = self._source[self._at : self._at + 1]
            if letter in _ASSERTIONS:
                self._at += 1
                return [(_ASSERT, _ASSERTIONS[letter])]
            member = self._escape()
            return [(_CHARACTER, _folded(member) if folds and isinstance(member, str) else _member(member))]
        return [(_CHARACTER, _folded(character) if folds else character.__eq__)]

    def _group(self, folds: bool) -> list[Instruction]:
        kinds = ("?:", "?i:", "?-i:", "?=", "?!", "?<=", "?<!", "?>", "?")
        kind = next((kind for kind in kinds if self._take(kind)), "")
        if kind == "?":
            raise ExpressionError(f"a group of an unknown kind at character {self._at}")
        program = self._alternatives(kind == "?i:" or (folds and kind != "?-i:"))
        if not self._take(")"):
            raise ExpressionError("a group without an end")
        if kind in ("?=", "?!", "?<=", "?<!"):
            return [(_LOOK, program, "<" in kind, "!" in kind)]
        return [(_ATOMIC, program)] if kind == "?>" else program

    def _repeated(self, program: list[Instruction]) -> list[Instruction]:
        times = 0
        while (bounds := self._bounds()) is not None:
            least, most = bounds
            times += 1
            if times > MAX_DEPTH:
                raise ExpressionError("nested too deeply")
            is_lazy = self._take("?")
            is_possessive = not is_lazy and self._take("+")
            copies = least + (1 if most is None else most - least)
            if copies * (len(program) + 2) > MAX_PROGRAM:
                raise ExpressionError("too large")
            repeated, size = program * least, len(program)
            if most is None:
                ways = (1, size + 2)
                repeated += [(_SPLIT, *(ways[::-1] if is_lazy else ways)), *program, (_JUMP, -size - 1)]
            else:
                for left in range(most - least, 0, -1):
                    ways = (1, left * (size + 1))
                    repeated += [(_SPLIT, *(ways[::-1] if is_lazy else ways)), *program]
            program = self._sized([(_ATOMIC, repeated)] if is_possessive else repeated)
        return program

    def _bounds(self) -> tuple[int, int | None] | None:
        """The bounds of a repetition that stands here, None if there is none."""
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        if not self._peek("{"):
            return None
        end = self._source.find("}", self._at)
        parts = self._source[self._at + 1 : max(end, 0)].split(",")
        if (
            end < 0
            or len(parts) > 2
            or not all(part.isdecimal() or not part for part in parts)
            or parts == [""]
        ):
            raise ExpressionError(f"a brace that bounds nothing at character {self._at}")
        if any(len(part) > 4 for part in parts):
            raise ExpressionError("too large")
        self._at = end + 1
        least = int(parts[0] or 0)
        most = least if len(parts) == 1 else int(parts[1]) if parts[1] else None
        if most is not None and most < least:
            raise ExpressionError("the bounds of a repetition are in the wrong order")
        return least, most

    def _class(self, folds: bool) -> Member:
        """What follows a bracket: members, ranges, classes inside, and intersections of them."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError("nested too deeply")
        is_negated = self._take("^")
        sets: list[list[Member]] = [[]]
        is_first = True
        while is_first or not self._peek("]"):
            is_first = False
            if self._peek("[:"):
                raise ExpressionError("a named class")
            if self._take("&&"):
                sets.append([])
            elif self._take("["):
                sets[-1].append(self._class(folds))
            else:
                low = self._single()
                if isinstance(low, str) and self._peek("-") and not self._peek("-]"):
                    self._at += 1
                    high = self._single()
                    if not isinstance(high, str) or high < low:
                        raise ExpressionError("a range without an order")
                    sets[-1].append(_range(low, high, folds))
                else:
                    sets[-1].append(_folded(low) if folds and isinstance(low, str) else _member(low))
        self._at += 1
        self._depth -= 1
        return lambda found: all(any(member(found) for member in part) for part in sets) != is_negated

    def _single(self) -> str | Member:
        character = self._next()
        return self._escape() if character == "\\" else character

    def _escape(self) -> str | Member:
        """What follows a backslash: a character, or the members of a class."""
        letter = self._next()
        if letter in "pP":
            if not self._take("{") or (end := self._source.find("}", self._at)) < 0:
                raise ExpressionError("a property without a name")
            name, self._at = self._source[self._at : end], end + 1
            member = _property(name.removeprefix("^"))
            return _unless(member) if (letter == "P") != name.startswith("^") else member
        if letter.lower() in _CLASSES:
            member = _CLASSES[letter.lower()]
            return member if letter.islower() else _unless(member)
        if letter in "xu":
            return self._code(letter)
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter.isalnum():
            raise ExpressionError(f"an escape that is not understood: \\{letter}")
        return letter

    def _code(self, letter: str) -> str:
        if self._take("{"):
            end = self._source.find("}", self._at)
            digits, stop = self._source[self._at : max(end, self._at)], end + 1
        else:
            stop = self._at + (2 if letter == "x" else 4)
            digits = self._source[self._at : stop]
        try:
            code = int(digits, 16) if len(digits) <= 6 and "_" not in digits else -1
            character = chr(code)
        except ValueError:
            raise ExpressionError("the code of a character is wrong") from None
        self._at = stop
        return character


def _property(name: str) -> Member:
    """The members of a Unicode property. Raises ExpressionError for one that is not known."""
    if name == "Han":
        return lambda found: any(low <= ord(found) <= high for low, high in _HAN)
    if name not in _CATEGORIES:
        raise ExpressionError(f"a property that is not known: {name!r}")
    return lambda found: unicodedata.category(found).startswith(name)


def _unless(member: Member) -> Member:
    return lambda found: not member(found)


def _member(member: str | Member) -> Member:
    return member.__eq__ if isinstance(member, str) else member


def _folded(character: str) -> Member:
    """A character whatever its case."""
    spellings = {character, character.lower(), character.upper()}
    return spellings.__contains__


def _range(low: str, high: str, folds: bool) -> Member:
    if folds:
        return lambda found: any(low <= one <= high for one in (found, found.lower(), found.upper()))
    return lambda found: low <= found <= high


def _is_space(found: str) -> bool:
    """Unicode's property White_Space."""
    return found in "\t\n\v\f\r\x85" or unicodedata.category(found)[0] == "Z"


def _is_word(found: str) -> bool:
    category = unicodedata.category(found)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc")


def _line_start(text: str, position: int) -> bool:
    return position == 0 or text[position - 1] == "\n"


def _line_end(text: str, position: int) -> bool:
    return position == len(text) or text[position] == "\n"


def _is_boundary(text: str, position: int) -> bool:
    before = position > 0 and _is_word(text[position - 1])
    return before != (position < len(text) and _is_word(text[position]))


_CLASSES: dict[str, Member] = {
    "s": _is_space,
    "d": lambda found: unicodedata.category(found) == "Nd",
    "w": _is_word,
}
_ASSERTIONS: dict[str, Callable[[str, int], bool]] = {
    "b": _is_boundary,
    "B": lambda text, position: not _is_boundary(text, position),
    "A": lambda text, position: position == 0,
    "z": lambda text, position: position == len(text),
}
