"""A GGUF file behind a model: mapped once and shared by everybody, or read range by range."""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.container.header import parse
from gguflow.container.reader import map_file
from gguflow.errors import Finding, InvalidError, UsageError
from gguflow.platform import advise_use, read_at, release_pages, storage_errors

Bytes = NDArray[np.uint8]

MODES = ("mmap", "pread")


class BlockFile:
    """An open GGUF file. Threads may share one.

    header: parsed; whoever opens the file judges it. content: the whole file, mapped, until `settle`.
    nbytes, mtime_ns: as they were at the opening.

    mode: "mmap" hands out views of the mapped file: no copy, but a file that somebody shortens kills the
    process at the next access to what is gone (SIGBUS), unless the access begins with `read`, which notices.
    "pread" copies ranges out of the file, and reports what is gone.
    """

    def __init__(self, path: Path, mode: str) -> None:
        if mode not in MODES:
            raise UsageError(f"mode is mmap or pread, not {mode!r}")
        self.path = path
        self.mode = mode
        self.content = map_file(path)
        self.nbytes = len(self.content)
        self._fd = -1
        self._map: mmap.mmap | None = self.content.obj  # type: ignore[assignment]
        self._bytes: Bytes | None = np.frombuffer(self.content, np.uint8)
        with storage_errors("read", path):
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self._close_fd = weakref.finalize(self, os.close, self._fd)  # for those who never call `close`
            status = os.fstat(self._fd)
        self.mtime_ns = status.st_mtime_ns
        try:
            if status.st_size != self.nbytes:
                raise InvalidError(
                    path,
                    Finding(
                        "R-001",
                        "the file changed while it was opened",
                        found=status.st_size,
                        expected=self.nbytes,
                    ),
                )
            self.header = parse(self.content, str(path))
        except BaseException:
            self.close()
            raise

    def settle(self) -> None:
        """The file has been judged. One that is read is no longer mapped from here on; its header is kept as
        a copy.
        """
        if self.mode == "pread":
            self.header = parse(bytes(self.content[: self.header.data_offset]), str(self.path))
            self._unmap()

    def read(self, first: int, last: int) -> Bytes:
        """The bytes [first, last) of the file: uint8[last - first], read-only.

        They are proved to have been in the file when it was opened. Raises InvalidError (R-002) where the
        file is shorter now, UsageError after `close`, StorageError.
        """
        if self._fd < 0:
            raise UsageError(f"{self.path} is closed")
        if self._bytes is not None:
            with storage_errors("read", self.path):
                there = os.fstat(self._fd).st_size
            if there < last:
                raise self._shortened(there)
            return self._bytes[first:last]
        with storage_errors("read", self.path):
            content = read_at(self._fd, last - first, first)
        if len(content) != last - first:
            raise self._shortened(first + len(content))
        return np.frombuffer(content, np.uint8)

    def prefetch(self, first: int, last: int) -> None:
        """Bytes [first, last) will be wanted: have the system read them ahead."""
        if self._map is not None:
            advise_use(self._map, first, last)
        elif self._fd >= 0 and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, first, last - first, os.POSIX_FADV_WILLNEED)

    def release(self, first: int, last: int) -> None:
        """Bytes [first, last) need not stay in this process's memory; they can be read again."""
        if self._map is not None:
            release_pages(self._map, first, last)

    def close(self) -> None:
        """Close the file, and unmap it as soon as no array refers to it any more."""
        if self._fd >= 0:
            self._fd = -1
            self._close_fd()
        self._unmap()

    def _unmap(self) -> None:
        self.content = memoryview(b"")
        mapping, self._map, self._bytes = self._map, None, None
        if mapping is not None:
            with contextlib.suppress(BufferError):  # an array still looks at it: it goes with the last one
                mapping.close()

    def _shortened(self, there: int) -> InvalidError:
        return InvalidError(
            self.path,
            Finding(
                "R-002",
                "the file was shortened after it was opened",
                found=there,
                expected=f"{self.nbytes} bytes",
            ),
        )
