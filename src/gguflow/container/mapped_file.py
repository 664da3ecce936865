"""A file that is read by ranges, mapped or copied out of it, and the proof that it did not change meanwhile:
what sources, row stores, models and the validator read from. Rules C-001, C-035, R-001 and R-002.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import threading
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow import platform
from gguflow.container.header import MAGIC
from gguflow.errors import Finding, InvalidError, MalformedError, UsageError

Bytes = NDArray[np.uint8]

Identity = tuple[int, int]
"""The size of a file in bytes, and its time of change in ns: another pair is another file."""

IO_MODES = ("mmap", "pread")


class MappedFile:
    """An open file. Threads may share one.

    path: the path of the file, as it was named.
    io: "mmap" hands out views of the mapped file, without a copy. If the file is shortened, the next access
        to the missing bytes kills the process (SIGBUS), unless the access begins with `read`, which notices.
        "pread" copies ranges out of the file, and reports missing bytes.
    nbytes: its size in bytes when it was opened.
    mtime_ns: its time of change in nanoseconds when it was opened.
    """

    def __init__(
        self, path: str | Path, io: str = "mmap", *, expected: Identity | None = None, fd: int = -1
    ) -> None:
        """Open a file.

        path: the path of the file.
        io: "mmap" or "pread".
        expected: the identity that the file had when it was examined earlier.
        fd: the descriptor, if the caller has the file open and keeps it open; the map then grows with the
            file.

        Raises UsageError for another io, InvalidError if it is not a regular file (C-035: a pipe would wait
        forever) or not the expected one (R-001), MalformedError if it is empty (C-001), StorageError.
        """
        check_io(io)
        self.path = Path(path)
        self.io = io
        self._lock = threading.Lock()
        self._is_closed = False
        self._mapped: tuple[mmap.mmap, Bytes] | None = None
        self._fd = _open(self.path) if fd < 0 else fd
        self._is_mine = fd < 0
        if self._is_mine:
            self._close_fd = weakref.finalize(self, _close, self._fd)  # for those who never call `close`
        try:
            with platform.storage_errors("read", path):
                status = os.fstat(self._fd)
            self.nbytes, self.mtime_ns = status.st_size, status.st_mtime_ns
            if expected is not None:
                message = "the file changed after its header was read"
                _check_same(self.path, status, expected, "R-001", message)
            if io == "mmap":
                self._mapped = self._map(self.nbytes)
        except BaseException:
            self.close()
            raise
        if io == "mmap":  # the map has a descriptor of its own, and one is enough for each of many shards
            self._let_descriptor_go()

    @property
    def identity(self) -> Identity:
        """The size and the time of change that the file had when it was opened."""
        return self.nbytes, self.mtime_ns

    def current_nbytes(self) -> int:
        """The current length of the file in bytes.

        Raises StorageError, UsageError after `close`.
        """
        self._require_open()
        mapped = self._mapped
        with platform.storage_errors("read", self.path):
            return os.fstat(self._fd).st_size if mapped is None else mapped[0].size()

    def read(self, start: int, stop: int) -> Bytes:
        """The bytes [start, stop) of the file: uint8[stop - start], read-only; a view of the map, or a copy.

        It is checked that the file still has them.

        start: the first byte.
        stop: the end of the range, exclusive.

        Raises InvalidError (R-002) if the file is shorter now, UsageError after `close`, StorageError.
        """
        self._require_open()
        mapped = self._mapped
        if mapped is None:
            with platform.storage_errors("read", self.path):
                copied = platform.read_at(self._fd, stop - start, start)
            if len(copied) != stop - start:
                raise self._shortened(start + len(copied), stop)
            return np.frombuffer(copied, np.uint8)
        mapping, content = mapped
        with platform.storage_errors("read", self.path):
            there = mapping.size()
        if there < stop:
            raise self._shortened(there, stop)
        return content[start:stop] if stop <= content.size else self._grown(stop)[start:stop]

    def view(self, start: int, stop: int) -> Bytes:
        """As `read`, for a caller that checks afterwards that the file has not changed.

        For a map, the length of the file is not checked first.

        start: the first byte.
        stop: the end of the range, exclusive.
        """
        mapped = self._mapped
        if mapped is not None and stop <= mapped[1].size and not self._is_closed:
            return mapped[1][start:stop]
        return self.read(start, stop)

    def map_all(self) -> memoryview:
        """All of the file as it was opened or last grew, mapped read-only for as long as it is referred to.

        Raises MalformedError if it is empty (C-001), InvalidError if it is shorter now (R-001), UsageError
        after `close`, StorageError.
        """
        self._require_open()
        return memoryview((self._mapped or self._map(self.nbytes))[0])

    def prefetch(self, start: int, stop: int, *, in_large_pages: bool = True) -> None:
        """Hint that bytes will be needed, so that the system reads them ahead.

        start: the first byte.
        stop: the end of the range, exclusive.
        in_large_pages: whether the system may map them in large pages, if it can.
        """
        mapped = self._mapped
        if mapped is not None:
            platform.advise_use(mapped[0], start, stop, in_large_pages=in_large_pages)
        elif not self._is_closed:
            platform.begin_read(self._fd, stop - start, start)

    def release(self, start: int, stop: int) -> None:
        """Hint that bytes need not stay in this process's memory; they can be read again.

        start: the first byte.
        stop: the end of the range, exclusive.
        """
        mapped = self._mapped
        if mapped is not None:
            platform.release_pages(mapped[0], start, stop)

    def close(self) -> None:
        """Close the file, and unmap it as soon as no array refers to it any more."""
        self._is_closed = True
        self._let_descriptor_go()
        mapped, self._mapped = self._mapped, None
        if mapped is not None:
            mapping = mapped[0]
            del mapped
            with contextlib.suppress(BufferError):  # an array still looks at it: it goes with the last one
                mapping.close()

    def _let_descriptor_go(self) -> None:
        if self._is_mine:
            self._fd = -1
            self._close_fd()

    def _require_open(self) -> None:
        if self._is_closed:
            raise UsageError(f"{self.path} is closed")

    def _grown(self, stop: int) -> Bytes:
        """The content of a file that is longer than its map: `stop` bytes or more."""
        if self._fd < 0:
            raise UsageError(f"{self.path} had {self.nbytes} bytes when it was opened; asked for {stop}")
        with self._lock:
            if self._mapped is None or stop > self._mapped[1].size:
                self._mapped = self._map(stop)
            content = self._mapped[1]
        if content.size < stop:
            raise self._shortened(content.size, stop)
        return content

    def _map(self, nbytes: int) -> tuple[mmap.mmap, Bytes]:
        """The first nbytes of the file; of one that may grow, as many as there are."""
        if nbytes == 0:  # nothing can be mapped
            raise MalformedError(self.path, Finding("C-001", "an empty file", "$", 0, "0 bytes", MAGIC))
        with platform.storage_errors("read", self.path):
            try:
                mapping = mmap.mmap(self._fd, nbytes if self._is_mine else 0, access=mmap.ACCESS_READ)
            except ValueError as error:  # there are not so many bytes any more
                finding = Finding("R-001", "the file changed while it was opened", expected=f"{nbytes} bytes")
                raise InvalidError(self.path, finding) from error
        return mapping, np.frombuffer(mapping, np.uint8)

    def _shortened(self, there: int, wanted: int) -> InvalidError:
        return InvalidError(
            self.path,
            Finding(
                "R-002",
                "the file was shortened while it was in use",
                found=there,
                expected=f"{wanted} bytes or more",
            ),
        )


def check_io(io: str) -> None:
    """Check the name of a way to read files.

    io: "mmap" or "pread".

    Raises UsageError for any other.
    """
    if io not in IO_MODES:
        raise UsageError(f"io is mmap or pread, not {io!r}")


def check_unchanged(path: Path, identity: Identity) -> None:
    """Prove that a path still leads to a file with the same size and time of change.

    path: the path of the file.
    identity: the size and time of change that it had when it was read.

    Raises InvalidError (R-002), StorageError.
    """
    with platform.storage_errors("read", path):
        status = os.stat(path)
    _check_same(path, status, identity, "R-002", "the file changed while it was read")


def _check_same(path: Path, status: os.stat_result, expected: Identity, rule: str, message: str) -> None:
    found = (status.st_size, status.st_mtime_ns)
    if found != expected:
        raise InvalidError(path, Finding(rule, message, found=found, expected=f"(bytes, ns) {expected}"))


def _close(fd: int) -> None:
    """Close a file that was only read: if that fails, nothing is lost."""
    with contextlib.suppress(OSError):
        os.close(fd)


def _open(path: Path) -> int:
    with platform.storage_errors("read", path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise InvalidError(path, Finding("C-035", "not a regular file"))
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
