"""What an interrupted conversion has done: a line for each leaf (or chunk of a payload) that is written, with
its digest, beside the partial file.

The first line binds the journal to what decides the bytes: the plan, the sources (size, time of change,
head), the version. A journal with another binding is refused, never mixed in. Lines are only claims: a
conversion that resumes reads each claimed leaf back and checks its digest, so neither an incomplete line nor
a leaf that never reached the disk does harm.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gguflow import platform
from gguflow.errors import UsageError

Leaf = tuple[int, int]
"""(tensor, leaf), or (tensor, chunk): both counted from 0, the tensor in the order of the output's table."""

_LINE = re.compile(r"([0-9]{1,20}) ([0-9]{1,20}) ([0-9a-f]{32})(?: ([0-9]{1,20}))?")


@dataclass(frozen=True)
class Claims:
    """What an earlier process says that it wrote.

    leaves: digest of each leaf.
    chunks: digest, and size in bytes, of each chunk of a payload.
    """

    leaves: dict[Leaf, bytes] = field(default_factory=dict)
    chunks: dict[Leaf, tuple[bytes, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.leaves or self.chunks)


def claims_in(lines: Iterable[str]) -> Claims:
    """What the lines after the first one say; lines of any other form are ignored.

    lines: without their line ends.
    """
    claims = Claims()
    for match in filter(None, map(_LINE.fullmatch, lines)):
        leaf, digest = (int(match[1]), int(match[2])), bytes.fromhex(match[3])
        if match[4] is None:
            claims.leaves[leaf] = digest
        else:
            claims.chunks[leaf] = digest, int(match[4])
    return claims


class Journal:
    """The journal of one output, used by one process, which holds the lock of the partial file.

    path: of the journal.
    binding: one line of text: what decides the bytes of the output.
    """

    def __init__(self, path: Path, binding: str) -> None:
        self.path = path
        self.binding = binding
        self._fd: int | None = None
        self._pid = os.getpid()

    def claims(self) -> Claims:
        """What an earlier process says that it wrote; empty if there was none.

        Raises UsageError if the journal is bound to something else, or is not ours; StorageError.
        """
        with platform.storage_errors("read", self.path):
            lines = (platform.read_own(self.path) or b"").decode("ascii", "replace").split("\n")
        if len(lines) < 2:  # nothing, or a first line that was cut short
            return Claims()
        if lines[0] != self.binding:
            raise UsageError(
                f"an interrupted conversion to {self.path.parent} left {self.path.name}, "
                "but its sources, settings or version were others; "
                "run it with those again to continue it, or pass --no-resume (resume=False) to start afresh"
            )
        return claims_in(lines[1:-1])

    def open(self, *, fresh: bool) -> None:
        """Begin to record.

        fresh: discard the earlier claims.

        Raises UsageError if a file that is not ours has the name, StorageError.
        """
        with platform.storage_errors("write", self.path):
            self._pid = os.getpid()
            self._fd = platform.open_own(self.path, os.O_WRONLY | os.O_APPEND)
            if fresh:
                platform.shorten(self._fd, 0)
                self._write(self.binding + "\n")

    def record_leaves(self, leaves: Mapping[Leaf, bytes]) -> None:
        """Record that leaves are in the partial file. Thread-safe: one appending write.

        leaves: digest of each leaf.
        """
        self._append("".join(f"{i} {number} {digest.hex()}\n" for (i, number), digest in leaves.items()))

    def record_chunk(self, chunk: Leaf, digest: bytes, nbytes: int) -> None:
        """Record that a chunk of a payload is in the partial file. Thread-safe: one appending write.

        chunk: the chunk.
        digest: its digest.
        nbytes: its size.
        """
        self._append(f"{chunk[0]} {chunk[1]} {digest.hex()} {nbytes}\n")

    def _append(self, lines: str) -> None:
        if self._fd is not None:
            with platform.storage_errors("write", self.path):
                if self._pid != os.getpid():
                    raise UsageError(f"{self.path} is written by the process that began it, not by its child")
                self._write(lines)

    def _write(self, lines: str) -> None:
        """All of it, even where the system takes a part: a torn line is no claim."""
        rest = lines.encode("ascii")
        while rest and self._fd is not None:
            rest = rest[os.write(self._fd, rest) :]

    def close(self, *, remove: bool) -> None:
        """Stop recording. A failure here does no harm, as lines are checked before they are used.

        remove: whether to remove the file, as it is no longer needed; in a child of fork, nothing is removed.
        """
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None
        if remove and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
