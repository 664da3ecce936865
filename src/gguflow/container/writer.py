"""An output file that appears under its name only when it is whole and on the medium."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gguflow import platform
from gguflow.errors import UsageError


class OutputFile:
    """A file of known size, written at any offsets by any threads, that replaces `path` in one step on `commit`.

    Until then the bytes are in a sibling whose name begins with a dot and ends in `.partial`; leaving the `with` block without a commit removes
    it, so `path` is the finished file, or what it was before. The commit is: flush the bytes, rename, flush the directory.

    Raises UsageError where path exists and overwrite is not asked for, StorageError where the system refuses (ENOSPC shows at once: the space is
    reserved on entry).
    """

    def __init__(self, path: Path, nbytes: int, *, overwrite: bool = False) -> None:
        self.path = path
        self.nbytes = nbytes
        self.overwrite = overwrite
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        self._fd: int | None = None

    def __enter__(self) -> OutputFile:
        self._refuse_existing()
        with platform.storage_errors("write", self.path):
            self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            try:
                platform.preallocate(self._fd, self.nbytes)
            except BaseException:
                self._discard()
                raise
        return self

    def write(self, data: bytes | NDArray[np.uint8], offset: int) -> None:
        """Write data at `offset` bytes from the start of the file. Thread-safe."""
        with platform.storage_errors("write", self.path):
            platform.pwrite_all(self._descriptor(), data, offset)

    def commit(self) -> None:
        """Make the file durable and give it its name. Raises UsageError where another file has taken the name meanwhile."""
        with platform.storage_errors("write", self.path):
            fd = self._descriptor()
            platform.sync_file(fd)
            os.close(fd)
            self._fd = None
            self._refuse_existing()
            platform.replace_file(self._partial, self.path)
            platform.sync_directory(self.path.parent)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._discard()

    def _descriptor(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is not open for writing")
        return self._fd

    def _discard(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None
        with contextlib.suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a directory; name a file")
        if not self.overwrite and (self.path.exists() or self.path.is_symlink()):
            raise UsageError(f"{self.path} exists; pass --overwrite (overwrite=True) to replace it")
