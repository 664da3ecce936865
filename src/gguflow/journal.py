"""What an interrupted conversion has done: a line for each leaf that is written, with its digest, beside the partial file.

The first line binds the journal to what decides the bytes: the plan, the sources (size, time of change, head), the version. Another binding is
refused, never mixed. Lines are only claims: whoever resumes reads each claimed leaf back and checks its digest, so neither a torn line nor a
leaf that never reached the disk does harm.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from gguflow import platform
from gguflow.errors import UsageError

Leaf = tuple[int, int]
"""(tensor, leaf): both counted from 0, the tensor in the order of the output's table."""

_LINE = re.compile(r"(\d+) (\d+) ([0-9a-f]{32})")


class Journal:
    """The journal of one output; used by one process, which holds the lock of the partial file.

    path: of the journal. binding: one line of text.
    """

    def __init__(self, path: Path, binding: str) -> None:
        self.path = path
        self.binding = binding
        self._fd: int | None = None

    def claims(self) -> dict[Leaf, bytes]:
        """The digests of the leaves that an earlier process says it wrote; empty where there was none.

        Raises UsageError where the journal is bound to something else.
        """
        try:
            with platform.storage_errors("read", self.path):
                lines = self.path.read_text("ascii", "replace").split("\n") if self.path.exists() else []
        except UnicodeError:
            lines = []
        if len(lines) < 2:  # nothing, or a first line that was cut short
            return {}
        if lines[0] != self.binding:
            raise UsageError(
                f"an interrupted conversion to {self.path.parent} left {self.path.name}, but its sources, settings or version were others; "
                "run it with those again to continue it, or pass --no-resume (resume=False) to start afresh"
            )
        matches = filter(None, map(_LINE.fullmatch, lines[1:-1]))
        return {(int(m[1]), int(m[2])): bytes.fromhex(m[3]) for m in matches}

    def open(self, *, anew: bool) -> None:
        """Begin to record. anew: forget what was claimed."""
        with platform.storage_errors("write", self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
            self._fd = os.open(self.path, flags | (os.O_TRUNC if anew else 0), 0o666)
            if anew:
                os.write(self._fd, self.binding.encode("ascii") + b"\n")

    def record(self, leaf: Leaf, digest: bytes) -> None:
        """A leaf is in the partial file. Thread-safe: one appending write."""
        if self._fd is not None:
            with platform.storage_errors("write", self.path):
                os.write(self._fd, f"{leaf[0]} {leaf[1]} {digest.hex()}\n".encode("ascii"))

    def close(self, *, remove: bool) -> None:
        """Stop recording; remove the file where nobody needs it any more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
