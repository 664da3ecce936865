"""A file that is mapped anew when it has grown."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.errors import Finding, InvalidError, MalformedError
from gguflow.platform import storage_errors

Bytes = NDArray[np.uint8]


class GrowingMap:
    """An open file, mapped read-only as far as anybody has asked. Threads may share one. Views keep the map
    that they are of alive.
    """

    def __init__(self, fd: int, path: Path) -> None:
        """Raises MalformedError where the file is empty, StorageError."""
        self._fd = fd
        self._path = path
        self._lock = threading.Lock()
        if self.file_nbytes() == 0:
            raise MalformedError(path, Finding("C-001", "an empty file", "$", 0, "0 bytes", b"GGUF"))
        self._content = self._mapped()

    @property
    def content(self) -> Bytes:
        """The file as it was when it was last mapped: uint8[nbytes]."""
        return self._content

    def file_nbytes(self) -> int:
        """How long the file is now."""
        with storage_errors("read", self._path):
            return os.fstat(self._fd).st_size

    def read(self, first: int, last: int) -> Bytes:
        """The bytes [first, last): uint8[last - first], read-only, as they are in the file, now and later.

        Raises InvalidError (R-002) where the file ends before: a mapped page that is gone would end the
        process.
        """
        there = self.file_nbytes()
        if there < last:
            raise InvalidError(
                self._path,
                Finding(
                    "R-002",
                    "the file was shortened while it was in use",
                    found=there,
                    expected=f"{last} bytes",
                ),
            )
        if last > self._content.size:
            with self._lock:
                if last > self._content.size:
                    self._content = self._mapped()
        return self._content[first:last]

    def number(self, position: int) -> int:
        """The u64 at `position`, in one load where that is a multiple of eight: another process may be
        writing it. Raises as `read`.
        """
        return int(self.read(position, position + 8).view("<u8")[0])

    def _mapped(self) -> Bytes:
        with storage_errors("read", self._path):
            return np.frombuffer(mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ), np.uint8)
