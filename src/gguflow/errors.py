"""Everything that can go wrong, as types: the error tree, Finding, ExitStatus.

One rule decides the type of an error: *who can do something about it*. A wrong call is a UsageError or
ShapeError, a bad file is a FileError with the Finding that says which rule it breaks and where, a full disk
is a StorageError. The command line turns each into its exit status; nothing
else in the package does.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class ExitStatus(enum.IntEnum):
    """What the process returns; scripts stand on these numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INVALID_FILE = 3
    IO = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Finding:
    """One broken rule: which, where, what was found, what was expected.

    path: where in the document, in the manner of JSONPath (`$.tensors[3].offset`).
    offset: the byte offset from the start of the file, where there is one.
    """

    rule: str
    message: str
    path: str = "$"
    offset: int | None = None
    found: object = None
    expected: object = None
    severity: str = "error"

    def __str__(self) -> str:
        text = f"{self.rule}: {self.message}"
        if self.found is not None:
            text += f"; found {_shown(self.found)}"
        if self.expected is not None:
            text += f", expected {_shown(self.expected)}"
        text += f" (at {self.path}"
        if self.offset is not None:
            text += f", byte {self.offset}"
        return text + ")"


def _shown(value: object) -> str:
    """A value from an untrusted file, bounded and with control characters escaped."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def printable(text: str, keep: str = "") -> str:
    """Text from a file with control characters and lone surrogates escaped: what is shown must not steer the
    terminal. keep: characters that pass.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def listed(names: Sequence[str], limit: int = 10) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class GguflowError(Exception):
    """The root: catch this to catch all that the package raises on purpose."""

    exit_status = ExitStatus.FAILED


class UsageError(GguflowError, ValueError):
    """The call cannot be carried out as it was written; another call can."""

    exit_status = ExitStatus.USAGE


class UnknownFormatError(UsageError):
    """No block format (or recipe) has this name or id."""


class ShapeError(UsageError):
    """An array whose shape or dtype the operation cannot take."""


class MismatchError(UsageError):
    """A file and a model that do not belong together.

    missing: names of tensors that the model has and the file has not. left_over: names of those in the file
    that the model has no place for.
    """

    def __init__(self, file: str | Path, missing: Sequence[str], left_over: Sequence[str]) -> None:
        what = [f"{file} does not fit the model"]
        what += [f"missing in the file: {listed(missing)}"] if missing else []
        what += [f"left over: {listed(left_over)}"] if left_over else []
        super().__init__("; ".join(what))
        self.missing, self.left_over = tuple(missing), tuple(left_over)


class NonFiniteError(GguflowError, ValueError):
    """NaN or infinity where a finite weight is needed.

    index: of the first such weight, counted over the flattened array.
    """

    exit_status = ExitStatus.INVALID_FILE

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class FileError(GguflowError, ValueError):
    """An input file that cannot be used, with the rule that it breaks. `verdict` is the word that reports
    use.
    """

    exit_status = ExitStatus.INVALID_FILE
    verdict = "invalid"

    def __init__(self, file: str | Path, finding: Finding) -> None:
        super().__init__(f"{file}: {finding}")
        self.file = str(file)
        self.finding = finding


class MalformedError(FileError):
    """The bytes do not parse."""

    verdict = "malformed"


class InvalidError(FileError):
    """The bytes parse, and say something that a rule forbids."""

    verdict = "invalid"


class UnsupportedError(FileError):
    """Well-formed, and something that this version does not know."""

    verdict = "unsupported"


class LimitError(FileError):
    """Well-formed, and larger than a stated limit."""

    verdict = "limit"


class StorageError(GguflowError, OSError):
    """The system refused to read or write: no space, no permission, no such directory. `errno` is the
    system's number for why, where it gave one.
    """

    exit_status = ExitStatus.IO

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(errno, message)

    def __str__(self) -> str:
        return str(self.strerror)
