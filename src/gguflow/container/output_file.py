"""An output file that gets its name only when it is complete and durable, and has a single writer."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gguflow import platform
from gguflow.container.replaced_file import ReplacedFile
from gguflow.errors import StorageError, UsageError

_MAX_NAME_NBYTES = 255
"""Bytes of a file's name, on nearly every file system."""


def hidden_sibling(path: Path, suffix: str) -> Path:
    """The path of a hidden file next to an output, `.NAMEsuffix`.

    The end of a long name is replaced by a digest if the file system would not accept it.

    path: the path of the output.
    suffix: the suffix; begins with a dot.

    Raises UsageError if the path does not name a file.
    """
    if path.name in ("", "..") or not platform.is_possible_name(path):
        raise UsageError(f"{os.fspath(path)!r} does not name a file; name one, such as model.gguf")
    name = os.fsencode(path.name)
    most = _MAX_NAME_NBYTES - 1 - len(suffix)
    if most < len(name) <= _MAX_NAME_NBYTES:
        digest = hashlib.sha256(name).hexdigest()[:16]
        name = name[: most - 1 - len(digest)] + b"~" + digest.encode()
    return path.with_name(f".{os.fsdecode(name)}{suffix}")


class OutputFile:
    """A file of known size, written at any offset by any thread, that atomically replaces `path` on `commit`.

    Until then the bytes are in a hidden sibling, `.NAME.partial`, locked against other writers, as is the
    file that is replaced. A commit flushes the bytes, renames the file, and flushes the directory. Leaving
    the `with` block without a commit removes the sibling, unless `keep` was called: then the next OutputFile
    of this path with `resume` finds it unchanged (`found` is True), and either continues or calls `clear`.
    Only the process that entered the block writes; a child of fork cannot write, and removes nothing.

    path: the final path.
    nbytes: the size of the file in bytes.
    overwrite: whether to replace an existing file; the new one gets its owner, mode and extended attributes.
    resume: whether to continue a partial file that was kept.
    found: whether a kept partial file is continued; set on entry.
    notes: after the commit, in sentences, what the new file could not keep of the one that it replaced.

    Raises UsageError if path exists without overwrite or is not a regular file, another process is writing
    it, or the sibling's name is taken by a file that is not ours; StorageError if the system refuses (ENOSPC
    at
    once: the space is reserved on entry).
    """

    def __init__(self, path: Path, nbytes: int, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = path
        self.nbytes = nbytes
        self._final_nbytes = nbytes
        self.partial = hidden_sibling(path, ".partial")
        self.resume = resume
        self.found = False
        self.notes: list[str] = []
        self._replaced = ReplacedFile(path, is_allowed=overwrite)
        self._fd: int | None = None
        self._pid = os.getpid()
        self._kept = False

    def __enter__(self) -> OutputFile:
        self._pid = os.getpid()
        try:
            self._replaced.hold()
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
        """Write data at a position in the file. Thread-safe.

        data: the bytes to write.
        offset: the position in bytes from the start of the file.
        """
        with platform.storage_errors("write", self.path):
            platform.pwrite_all(self._writable(), data, offset)

    def begin_flush(self, nbytes: int, offset: int) -> None:
        """Hint that the system should begin to make bytes durable that will not change. Thread-safe.

        nbytes: the number of bytes.
        offset: the position of the first byte in the file.
        """
        platform.begin_sync(self._descriptor(), nbytes, offset)

    def read(self, nbytes: int, offset: int) -> bytes:
        """Read bytes written by this process or an earlier one. Thread-safe.

        nbytes: the most bytes to read.
        offset: the position in bytes from the start of the file.
        """
        with platform.storage_errors("read", self.partial):
            return platform.read_at(self._descriptor(), nbytes, offset)

    def clear(self) -> None:
        """Set all bytes to zero, discarding those of an earlier process, and reserve the space."""
        with platform.storage_errors("write", self.path):
            platform.preallocate_anew(self._writable(), self.nbytes)

    def reserve(self) -> None:
        """Give a partial file of an earlier process its size again, keeping its bytes: a process that was
        stopped at its end had shortened it, or another program did.
        """
        with platform.storage_errors("write", self.path):
            if os.fstat(self._descriptor()).st_size != self.nbytes:
                platform.preallocate(self._writable(), self.nbytes)

    def shorten(self, nbytes: int) -> None:
        """Reduce the size of the file once it is written.

        nbytes: the new size in bytes.
        """
        with platform.storage_errors("write", self.path):
            platform.shorten(self._writable(), nbytes)
        self._final_nbytes = nbytes

    def flush(self) -> None:
        """Make the bytes durable.

        Raises UsageError if another file has taken the name in the meantime.
        """
        with platform.storage_errors("write", self.path):
            platform.sync_file(self._writable())
        self._replaced.hold()

    def commit(self) -> None:
        """Make the file durable and give it its name.

        Raises what `flush` raises, and StorageError if another program has renamed, replaced or cut the
        partial file in the meantime.
        """
        self._replaced.hold()
        notes = self._replaced.hand_down(self._writable())
        self.flush()
        with platform.storage_errors("write", self.path):
            if (found := os.fstat(self._descriptor()).st_size) != self._final_nbytes:
                raise StorageError(
                    f"cannot write {self.path}: another program changed {self.partial.name} meanwhile: it "
                    f"has {found} bytes, and {self._final_nbytes} were written; run the conversion again"
                )
            if not self._is_named():
                self._kept = True  # what has the name now is somebody else's
                raise StorageError(
                    f"cannot write {self.path}: {self.partial.name} was removed or replaced meanwhile"
                )
            if os.name == "nt":  # an open file cannot be renamed on Windows
                self._close(remove=False)
            platform.replace_file(self.partial, self.path)
            self._kept = True  # from here on, a file with the partial's name is not this one
            self.notes = notes
            platform.sync_directory(self.path.parent)
        self._close(remove=False)

    def keep(self) -> None:
        """Keep the partial file if the block ends without a commit."""
        self._kept = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(remove=not self._kept)

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that entered the block, and not a child of fork."""
        return self._pid == os.getpid()

    def _descriptor(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is not open for writing")
        return self._fd

    def _writable(self) -> int:
        if not self.is_ours:
            raise UsageError(
                f"{self.path} is written by the process that began it, not by a child of it (fork)"
            )
        return self._descriptor()

    def _open_partial(self) -> None:
        """Open and lock the partial file, again if another writer's commit has renamed it in the meantime."""
        while True:
            with platform.interruptions_deferred():
                self._fd = platform.open_own(self.partial, os.O_RDWR)
            if not platform.try_lock(self._fd):
                raise UsageError(f"another process is writing {self.path}")
            if self._is_named():
                return
            self._close_partial(remove=False)

    def _is_named(self) -> bool:
        """Whether the partial file's name still refers to the open file."""
        return platform.leads_to(self.partial, self._descriptor())

    def _is_new(self) -> bool:
        """Whether the partial file is ours and empty: an interruption came right after it was made."""
        with contextlib.suppress(OSError):
            return (
                self._fd is not None
                and os.fstat(self._fd).st_size == 0
                and platform.try_lock(self._fd)
                and self._is_named()
            )
        return False

    def _close(self, *, remove: bool) -> None:
        """Close the partial file, and let the replaced one go."""
        self._close_partial(remove=remove)
        self._replaced.let_go()

    def _close_partial(self, *, remove: bool) -> None:
        """Close the file, after removing it if wanted: while it is locked, no other process uses it."""
        if self._fd is not None:
            if self.is_ours:
                if remove:
                    with contextlib.suppress(OSError):
                        self.partial.unlink(missing_ok=True)
                platform.unlock(self._fd)  # a child of fork that lives on has the lock too
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None


def is_worth_keeping(error: BaseException | None) -> bool:
    """Whether a stopped writer may continue later, after an interruption or a system failure.

    error: the error that stopped it, None without an error.
    """
    return isinstance(error, KeyboardInterrupt | SystemExit | StorageError | MemoryError)
