"""The types of errors, Finding, ExitStatus, and the channel for warnings about files.

One rule decides the type of an error: *who can do something about it*. A wrong call is a UsageError or
ShapeError, a bad file is a FileError with the Finding that says which rule it breaks and where, a full disk
is a StorageError. Only the command line turns them into exit statuses.

What is doubtful about a file and does not stop the work is a warning: whoever notices it calls `warn`, and
whoever answers for the work gathers what was said with `gathered_warnings` and hands it to the caller.
"""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path


class ExitStatus(enum.IntEnum):
    """The exit status of the process; scripts depend on these numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INVALID_FILE = 3
    IO = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Finding:
    """One broken rule.

    rule: its id.
    message: what is wrong.
    path: place in the document as JSONPath (`$.tensors[3].offset`).
    offset: byte offset from the start of the file, if known.
    found: what was found.
    expected: what was expected.
    severity: "error" or "warning".
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
        return printable(text + ")")


_MAX_SHOWN = 200
"""Characters of a value in a message."""


class _Repr(reprlib.Repr):
    """`repr` with bounded work: of a long or deeply nested value it looks only at the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxarray = 100
        self.maxother = 2 * _MAX_SHOWN
        self._n_left = 2 * _MAX_SHOWN

    def repr1(self, x: object, level: int) -> str:
        """Count the values; what is not looked at does not fit into the message anyway."""
        self._n_left -= 1
        return super().repr1(x, level) if self._n_left >= 0 else self.fillvalue

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write integers of more than 4300 digits."""
        if x.bit_length() <= 8 * _MAX_SHOWN:
            return repr(x)
        return f"an integer of about {int(x.bit_length() * 0.30103) + 1} digits"

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: _MAX_SHOWN + 1])

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: _MAX_SHOWN + 1])


def _shown(value: object) -> str:
    """A value from an untrusted file, shortened and with control characters escaped."""
    if isinstance(value, str) and value[: _MAX_SHOWN + 1].isprintable():
        text = value[: _MAX_SHOWN + 1]
    else:
        text = _Repr().repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def printable(text: str, keep: str = "") -> str:
    """Text from a file with control characters and lone surrogates escaped, so that it is safe to print.

    keep: characters that are not escaped.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def listed(names: Sequence[str], limit: int = 10) -> str:
    """The first `limit` names, and the number of others."""
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


@dataclass(frozen=True)
class FileWarning:
    """What is doubtful about a file that can be used all the same.

    file: its path.
    finding: the rule, of severity "warning".
    """

    file: str
    finding: Finding

    def __str__(self) -> str:
        return f"{self.file}: {self.finding}"


MAX_WARNINGS = 200
"""How many warnings are gathered; a file that is made to be bad could have any number."""

_gathered: ContextVar[list[FileWarning] | None] = ContextVar("gathered warnings", default=None)


def warn(file: str | Path, finding: Finding) -> None:
    """Add a warning to those that are being gathered in this thread, unless it is there already.

    file: what the warning is about.
    finding: the rule; its severity becomes "warning".
    """
    warning, gathered = FileWarning(str(file), replace(finding, severity="warning")), _gathered.get()
    if gathered is None or warning in gathered:
        return
    if len(gathered) < MAX_WARNINGS:
        gathered.append(warning)
    elif len(gathered) == MAX_WARNINGS:
        message = f"there are more warnings; the first {MAX_WARNINGS} are listed"
        gathered.append(FileWarning(str(file), Finding("P-009", message, severity="warning")))


@contextmanager
def gathered_warnings() -> Iterator[list[FileWarning]]:
    """A list that grows by the warnings of the work inside; an inner one takes those of its own work."""
    gathered: list[FileWarning] = []
    token = _gathered.set(gathered)
    try:
        yield gathered
    finally:
        _gathered.reset(token)


class GguflowError(Exception):
    """The base class of all errors that the package raises on purpose. Its text is one line, whatever names
    from files are in it: control characters are escaped, line feeds too.
    """

    exit_status = ExitStatus.FAILED

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(GguflowError, ValueError):
    """The call is wrong; another call can succeed."""

    exit_status = ExitStatus.USAGE


class UnknownFormatError(UsageError):
    """No block format (or recipe) has this name or id."""


class ShapeError(UsageError):
    """An array has a shape or dtype that the operation does not support."""


class MismatchError(UsageError):
    """A file and a model do not belong together.

    missing: names of tensors of the model that are not in the file.
    left_over: names of tensors of the file that are not in the model.
    """

    def __init__(self, file: str | Path, missing: Sequence[str], left_over: Sequence[str]) -> None:
        what = [f"{file} does not fit the model"]
        what += [f"missing in the file: {listed(missing)}"] if missing else []
        what += [f"left over: {listed(left_over)}"] if left_over else []
        super().__init__("; ".join(what))
        self.missing, self.left_over = tuple(missing), tuple(left_over)


class NonFiniteError(GguflowError, ValueError):
    """A weight is NaN or infinite where it must be finite.

    index: of the first such weight in the flattened array.
    """

    exit_status = ExitStatus.INVALID_FILE

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class MomentsError(GguflowError, ValueError):
    """Second moments of activations cannot guide a quantization: NaN, all zero, not positive definite."""

    exit_status = ExitStatus.INVALID_FILE


class FileError(GguflowError, ValueError):
    """An input file cannot be used, because it breaks a rule; `verdict` is the word in reports."""

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
    """The bytes parse, but break a rule."""

    verdict = "invalid"


class UnsupportedError(FileError):
    """Well-formed, but not supported by this version."""

    verdict = "unsupported"


class LimitError(FileError):
    """Well-formed, but larger than a stated limit."""

    verdict = "limit"


class StorageError(GguflowError, OSError):
    """The system refused to read or write: no space, no permission, no such directory.

    errno: the system's error number, if there is one.
    """

    exit_status = ExitStatus.IO

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(errno, message)

    def __str__(self) -> str:
        return printable(str(self.strerror))
