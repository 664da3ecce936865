"""The two streams of a command: what nobody can read any more must not stop its work.

stderr takes progress and messages; where it is closed, full or gone, they are dropped. stdout takes results;
where its reader has gone, whoever writes there is done (`ReaderGone`), and where it is full, that is an error
of the system. Both take every character, whatever their encoding.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from gguflow.errors import StorageError


class ReaderGone(Exception):
    """Nobody reads stdout any more, so there is nothing left to do."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within the block, sys.stdout and sys.stderr are such streams. At its end, what was printed is written
    out; what cannot be is dropped, so that the interpreter does not try again.

    Raises ReaderGone and StorageError, which stdout raises, at the end of the block too.
    """
    _open_standard_descriptors()
    stdout, stderr = sys.stdout, sys.stderr
    results, messages = _Results(stdout), _Messages(stderr)
    sys.stdout, sys.stderr = cast(TextIO, results), cast(TextIO, messages)
    try:
        yield
    except SystemExit:  # argparse has printed its help, and takes no notice of what that met with
        if results.error is not None:
            raise results.error from None
        raise
    finally:
        try:
            results.flush()
        finally:
            messages.flush()
            sys.stdout, sys.stderr = stdout, stderr
            results.give_back()
            messages.give_back()


class _Stream:
    """A text stream that stands in for another one; None is one that takes everything and shows nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = io.StringIO() if stream is None else stream
        self._is_silent = stream is None
        self._errors = stream.errors if isinstance(stream, io.TextIOWrapper) else None
        self._encode(_ANY_CHARACTER)

    def give_back(self) -> None:
        """Leave the stream as it was."""
        self._encode(self._errors)

    def _encode(self, errors: str | None) -> None:
        if self._errors is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.reconfigure(errors=errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        try:
            return not self._is_silent and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        if not self._is_silent:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._refused(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Have the system take what was written."""
        if not self._is_silent:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._refused(error)

    def _refused(self, error: OSError | ValueError) -> None:
        """Let what the stream still holds go to nobody."""
        self._is_silent = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class _Messages(_Stream):
    """stderr."""


class _Results(_Stream):
    """stdout. error: what it has raised."""

    error: ReaderGone | StorageError | None = None

    def _refused(self, error: OSError | ValueError) -> None:
        super()._refused(error)
        if isinstance(error, BrokenPipeError):
            self.error = ReaderGone()
        elif isinstance(error, OSError):
            from gguflow.platform import reason

            self.error = StorageError(f"cannot write the result to stdout: {reason(error)}", error.errno)
        if self.error is not None:
            raise self.error from error


def _open_standard_descriptors() -> None:
    """Where a shell closed one of the first three descriptors, the next file that is opened would get its
    number, and with it what libraries print there.
    """
    if os.name == "nt":
        return
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _encoded_anyhow(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes that a surrogate from a file's name stands for; other characters as escapes."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


_ANY_CHARACTER = "gguflow-any-character"

codecs.register_error(_ANY_CHARACTER, _encoded_anyhow)
