"""An output file that appears under its name only when it is whole and on the medium, and that one process
writes at a time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gguflow import platform
from gguflow.errors import StorageError, UsageError


class OutputFile:
    """A file of known size, written at any offsets by any threads, that replaces `path` in one step on
    `commit`.

    Until then the bytes are in a hidden sibling, `.NAME.partial`, locked against a second writer. The commit
    is: flush the bytes, rename, flush the directory. Leaving the `with` block without one removes the
    sibling, unless `keep` was called: then the next OutputFile of this path that is made with `resume` finds
    it as it was (`found` is True), and either goes on from there or calls `clear`.

    Raises UsageError where path exists and overwrite is not asked for, or where somebody else is writing it;
    StorageError where the system refuses (ENOSPC shows at once: the space is reserved on entry).
    """

    def __init__(self, path: Path, nbytes: int, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = path
        self.nbytes = nbytes
        self.overwrite = overwrite
        self.partial = path.with_name(f".{path.name}.partial")
        self.resume = resume
        self.found = False
        self._fd: int | None = None
        self._kept = False

    def __enter__(self) -> OutputFile:
        self._refuse_existing()
        try:
            with platform.storage_errors("write", self.path):
                self._open_partial()
                self.found = self.resume and os.fstat(self._descriptor()).st_size > 0
        except BaseException:
            self._close(remove=self._is_new())
            raise
        if not self.found:
            try:
                self.clear()
            except BaseException:
                self._close(remove=True)
                raise
        return self

    def write(self, data: bytes | NDArray[np.uint8], offset: int) -> None:
        """Write data at `offset` bytes from the start of the file. Thread-safe."""
        with platform.storage_errors("write", self.path):
            platform.pwrite_all(self._descriptor(), data, offset)

    def begin_flush(self, nbytes: int, offset: int) -> None:
        """These bytes are written and stay as they are: the system may begin to make them durable.
        Thread-safe.
        """
        platform.begin_sync(self._descriptor(), nbytes, offset)

    def read(self, nbytes: int, offset: int) -> bytes:
        """Bytes that were written, by this process or the one before it. Thread-safe."""
        with platform.storage_errors("read", self.partial):
            return platform.read_at(self._descriptor(), nbytes, offset)

    def clear(self) -> None:
        """All bytes are zero, whatever an earlier process wrote, and the space is reserved."""
        with platform.storage_errors("write", self.path):
            platform.preallocate_anew(self._descriptor(), self.nbytes)

    def shorten(self, nbytes: int) -> None:
        """The file is only so long, now that it is written."""
        with platform.storage_errors("write", self.path):
            platform.shorten(self._descriptor(), nbytes)

    def flush(self) -> None:
        """Make the bytes durable. Raises UsageError where another file has taken the name meanwhile."""
        with platform.storage_errors("write", self.path):
            platform.sync_file(self._descriptor())
        self._refuse_existing()

    def commit(self) -> None:
        """Make the file durable and give it its name. Raises what `flush` raises."""
        self.flush()
        with platform.storage_errors("write", self.path):
            if os.name == "nt":  # an open file cannot be renamed there
                self._close(remove=False)
            platform.replace_file(self.partial, self.path)
            self._kept = True  # whoever has a file of the partial's name from here on, it is not this one
            platform.sync_directory(self.path.parent)
        self._close(remove=False)

    def keep(self) -> None:
        """Leave the partial file when the block ends without a commit."""
        self._kept = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._fd is not None:
            self._close(remove=not self._kept)

    def _descriptor(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is not open for writing")
        return self._fd

    def _open_partial(self) -> None:
        """Open the partial file and lock it. The lock counts only while the name still leads to the locked
        file: a writer that commits renames it.
        """
        while True:
            with platform.interruptions_deferred():
                self._fd = os.open(
                    self.partial,
                    os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0),
                    0o666,
                )
            if not platform.try_lock(self._fd):
                raise UsageError(f"another process is writing {self.path}")
            if self._is_named():
                return
            self._close(remove=False)

    def _is_named(self) -> bool:
        """Whether the partial file's name leads to the file that is open."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor()), os.stat(self.partial))
        return False

    def _is_new(self) -> bool:
        """Whether the partial file is nobody else's, and holds nothing that was worth keeping: an
        interruption came right after it was made.
        """
        return (
            self._fd is not None
            and os.fstat(self._fd).st_size == 0
            and platform.try_lock(self._fd)
            and self._is_named()
        )

    def _close(self, *, remove: bool) -> None:
        """Close, and remove the partial file first: while it is locked nobody else can be using it."""
        if self._fd is not None:
            if remove:
                with contextlib.suppress(OSError):
                    self.partial.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _refuse_existing(self) -> None:
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a directory; name a file")
        if not self.overwrite and (self.path.exists() or self.path.is_symlink()):
            raise UsageError(f"{self.path} exists; pass --overwrite (overwrite=True) to replace it")


def is_worth_keeping(error: BaseException | None) -> bool:
    """Whether a writer that was stopped by this may go on later: an interruption or the system's refusal, not
    a wrong input.
    """
    return isinstance(error, KeyboardInterrupt | SystemExit | StorageError | MemoryError)
