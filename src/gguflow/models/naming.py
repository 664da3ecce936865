"""What the name of a model says: `Qwen2-57B-A14B-Instruct-v0.2` is based on Qwen2, has the size 57B-A14B, is
tuned as Instruct, and is version v0.2.

The rules are llama.cpp's, since what they find becomes metadata keys and file names. Where a name follows no
convention they guess, and the guess is theirs too. All of them take time in proportion to the name's length.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass


class _Kind(enum.Enum):
    """What one part of a name says, by itself."""

    VERSION = re.compile(r"(v|iter)?\d+(\.\d+)*", re.IGNORECASE)
    ENCODING = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
    SIZE = re.compile(r"(a|\d+x)?\d+([._]\d+)?[kmbt]\d?", re.IGNORECASE)
    SIZE_IN_WORDS = re.compile(r"small|mini|medium|large|x?xl", re.IGNORECASE)
    TUNING = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
    UNKNOWN = re.compile("(?!)")


_EXCEPT_FIRST = (_Kind.SIZE, _Kind.SIZE_IN_WORDS, _Kind.TUNING)
"""Kinds that the first part of a name is never taken for."""

_NUMBERED = re.compile(r"v\d+(\.\d+)*|\d.*")
"""Words of a title that keep their small letters: versions, and what begins with a digit."""

_UNITS = " KMBT"
"""What stands behind the number of a size: the position is the power of a thousand."""


@dataclass(frozen=True)
class ModelName:
    """The parts of a name; None for what it does not say.

    full: all but the organization.
    organization: what stands before the first slash.
    basename, finetune, version, size_label: as in GGUF's keys `general.*`.
    """

    full: str
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None

    @classmethod
    def parse(cls, text: str, n_weights: int = 0) -> ModelName:
        """The parts of a name, of the form `organization/name` or `name`. A text with spaces is no such name,
        and has no parts.

        n_weights: of the model; sizes that are far from it are lengths of a context, or of a training, and
            belong to the finetune. 0 if unknown.
        """
        if " " in text:
            return cls(text)
        before, slash, after = text.partition("/")
        organization = before if slash and not before.startswith(".") else None
        full = after if slash else text
        parts = _without_words_beside_numbers(
            [_part(part, i == 0, n_weights) for i, part in enumerate(filter(None, full.split("-")))]
        )
        n_base = _base_length(parts)
        base, rest = parts[:n_base], parts[n_base:]
        finetune = _joined(rest, _Kind.TUNING, _Kind.UNKNOWN)
        version = _joined(rest, _Kind.VERSION)
        size_label = _joined(dict.fromkeys(rest), _Kind.SIZE, _Kind.SIZE_IN_WORDS)
        if finetune is version is size_label is None:
            return cls(full, organization)
        basename = "-".join(text for text, _ in base) or None
        return cls(full, organization, basename, finetune, version, size_label)


_Part = tuple[str, _Kind]


def _part(text: str, is_first: bool, n_weights: int) -> _Part:
    """A part in its usual form, and its kind."""
    for kind in _Kind:
        if kind.value.fullmatch(text) and not (is_first and kind in _EXCEPT_FIRST):
            return _size(text, n_weights) if kind is _Kind.SIZE else (text, kind)
    return text, _Kind.UNKNOWN


def _size(text: str, n_weights: int) -> _Part:
    """A size as "1.6B" for "1_6b", "7.1B" for "7b1"; or "4k", a part of the finetune, if it is not near the
    number of weights: not between an eighth of it and fifteen eighths.
    """
    text = text.replace("_", ".")
    if text[-1].isdecimal():
        text = f"{text[:-2]}.{text[-1]}{text[-2]}"
    number, unit = text[:-1], text[-1].upper()
    try:
        said = float(number) * 1000 ** _UNITS.find(unit)
    except ValueError:  # 8x7B, A14B
        said = n_weights
    if n_weights and abs(said - n_weights) > 7 * n_weights // 8:
        return number + unit.lower(), _Kind.TUNING
    return number + unit, _Kind.SIZE


def _without_words_beside_numbers(parts: list[_Part]) -> list[_Part]:
    """The parts; a size in words (mini) is nothing known where another one has a number."""
    if not any(kind is _Kind.SIZE for _, kind in parts):
        return parts
    return [(text, _Kind.UNKNOWN if kind is _Kind.SIZE_IN_WORDS else kind) for text, kind in parts]


def _base_length(parts: list[_Part]) -> int:
    """The number of parts that make the base: those at the front that are versions, or unknown words. If
    those are all, the versions at the end are the model's.
    """
    n_base = 0
    for text, kind in parts:
        if not (kind is _Kind.VERSION or (kind is _Kind.UNKNOWN and text[0].isalpha())):
            return n_base
        n_base += 1
    while n_base and parts[n_base - 1][1] is _Kind.VERSION:
        n_base -= 1
    return n_base


def _joined(parts: Iterable[_Part], *kinds: _Kind) -> str | None:
    return "-".join(text for text, kind in parts if kind in kinds) or None


def title(text: str) -> str:
    """A name as a title: "Llama 3 8b Instruct" for "llama-3-8b-instruct"; words with capitals stay."""
    words = text.replace("-", " ").split()
    return " ".join(
        word.title() if word.islower() and _NUMBERED.fullmatch(word) is None else word for word in words
    )


def rounded(n_weights: int) -> str:
    """A number of weights as a size: "1.1B", "135M", "8.0B"."""
    unit, power = next(
        (found for found in (("T", 12), ("B", 9), ("M", 6)) if n_weights > 10 ** found[1]), ("K", 3)
    )
    scaled = n_weights * float(f"1e-{power}")
    n_digits = len(str(round(scaled)).lstrip("0"))
    return f"{scaled:.{max(2 - n_digits, 0)}f}{unit}"
