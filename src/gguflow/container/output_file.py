"""An output file that gets its name only when it is complete and durable, and has a single writer."""

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
    """A file of known size, written at any offset by any thread, that atomically replaces `path` on `commit`.

    Until then the bytes are in a hidden sibling, `.NAME.partial`, locked against other writers. A commit
    flushes the bytes, renames the file, and flushes the directory. Leaving the `with` block without a commit
    removes the sibling, unless `keep` was called: then the next OutputFile of this path with `resume` finds
    it unchanged (`found` is True), and either continues or calls `clear`.

    path: the final name.
    nbytes: size of the file.
    overwrite: whether to replace an existing file.
    resume: whether to continue a partial file that was kept.

    Raises UsageError if path exists without overwrite, or another process is writing it; StorageError if the
    system refuses (ENOSPC at once: the space is reserved on entry).
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
        """Let the system begin to make these bytes durable, which will not change. Thread-safe."""
        platform.begin_sync(self._descriptor(), nbytes, offset)

    def read(self, nbytes: int, offset: int) -> bytes:
        """Read bytes written by this process or a previous one. Thread-safe."""
        with platform.storage_errors("read", self.partial):
            return platform.read_at(self._descriptor(), nbytes, offset)

    def clear(self) -> None:
        """Set all bytes to zero, discarding those of an earlier process, and reserve the space."""
        with platform.storage_errors("write", self.path):
            platform.preallocate_anew(self._descriptor(), self.nbytes)

    def shorten(self, nbytes: int) -> None:
        """Reduce the size of the file to nbytes, once it is written."""
        with platform.storage_errors("write", self.path):
            platform.shorten(self._descriptor(), nbytes)

    def flush(self) -> None:
        """Make the bytes durable. Raises UsageError if another file has taken the name in the meantime."""
        with platform.storage_errors("write", self.path):
            platform.sync_file(self._descriptor())
        self._refuse_existing()

    def commit(self) -> None:
        """Make the file durable and give it its name. Raises what `flush` raises."""
        self.flush()
        with platform.storage_errors("write", self.path):
            if os.name == "nt":  # an open file cannot be renamed on Windows
                self._close(remove=False)
            platform.replace_file(self.partial, self.path)
            self._kept = True  # from here on, a file with the partial's name is not this one
            platform.sync_directory(self.path.parent)
        self._close(remove=False)

    def keep(self) -> None:
        """Keep the partial file if the block ends without a commit."""
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
        """Open and lock the partial file, again if another writer's commit has renamed it in the meantime."""
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
        """Whether the partial file's name still refers to the open file."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor()), os.stat(self.partial))
        return False

    def _is_new(self) -> bool:
        """Whether the partial file is ours and empty: an interruption came right after it was made."""
        return (
            self._fd is not None
            and os.fstat(self._fd).st_size == 0
            and platform.try_lock(self._fd)
            and self._is_named()
        )

    def _close(self, *, remove: bool) -> None:
        """Close the file, after removing it if wanted: while it is locked, no other process uses it."""
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
    """Whether a writer stopped by this error may continue later: an interruption or a system failure."""
    return isinstance(error, KeyboardInterrupt | SystemExit | StorageError | MemoryError)
