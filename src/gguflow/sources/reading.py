"""Weights of a checkpoint, read through memory maps, and the proof that the files did not change meanwhile.
Rules R-001 and R-002.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gguflow.errors import Finding, InvalidError, UsageError
from gguflow.parametric import Payload
from gguflow.platform import advise_use, begin_read, read_at, release_pages, storage_errors
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor
from gguflow.sources.payloads import PayloadReader

Bytes = NDArray[np.uint8]


class TensorReader:
    """Reads the tensors of a checkpoint; each file is mapped once, read-only, when a tensor of it is first
    wanted. Threads may share one.

    What `read` returns is the mapped file itself: valid as long as it is referred to, after the reader is
    closed too. A file that somebody shortens while it is mapped kills the process at the next access
    (SIGBUS); one that is overwritten in place shows in `check_unchanged`.

    io: "mmap" as described, or "pread": ranges are copied out of the file with positioned reads, which give
    an error where the file was shortened.
    """

    def __init__(self, checkpoint: Checkpoint, io: str = "mmap") -> None:
        if io not in ("mmap", "pread"):
            raise UsageError(f"io is mmap or pread, not {io!r}")
        self._io = io
        self._files = checkpoint.files
        self._maps: dict[SourceFile, tuple[mmap.mmap, Bytes]] = {}
        self._descriptors: dict[SourceFile, int] = {}
        self._lock = threading.Lock()
        self._payloads = PayloadReader(self._stored)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the files, each as soon as no array refers to it any more; close those that are read."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
        while self._maps:
            _, (mapping, content) = self._maps.popitem()
            del content
            with contextlib.suppress(BufferError):
                mapping.close()

    def read(self, tensor: SourceTensor, first: int, last: int) -> Bytes:
        """The packed bytes of weights [first, last) of the flattened tensor: uint8[...], read-only, without a
        copy; any alignment.

        Of a payload, what it decodes to: a copy.
        Raises UnsupportedError (S-019), InvalidError (R-001), StorageError, UsageError where the range is not
        in the tensor.
        """
        if tensor.stored is not None:
            return self._payloads.read(tensor, tensor.stored, first, last)
        start, stop = _byte_range(tensor, first, last)
        return self._stored(tensor.file, start, stop)

    def payload(self, tensor: SourceTensor) -> Payload | None:
        """The payload that a tensor is stored in, or that its parts make; None for one in a block format.
        Raises what `read` raises.
        """
        return self._payloads.payload(tensor, tensor.stored) if tensor.stored is not None else None

    def _stored(self, file: SourceFile, start: int, stop: int) -> Bytes:
        """Bytes [start, stop) of a file."""
        return self._copied(file, start, stop) if self._io == "pread" else self._map(file)[1][start:stop]

    def read_rows(self, tensor: SourceTensor, rows: NDArray[np.int64]) -> Bytes:
        """Gather rows, in the order given: int64[n] -> uint8[n, row_bytes], a copy.

        A row is what one index of the first axis selects: a row of a matrix, one weight of a vector.
        Raises what `read` raises, UsageError where an index is not in the tensor.
        """
        if not tensor.shape:
            raise UsageError(f"{tensor.name} is a scalar: it has no rows")
        n_rows = tensor.shape[0]
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < n_rows:
            raise UsageError(
                f"{tensor.name} has {n_rows} rows; asked for {int(rows.min())} to {int(rows.max())}"
            )
        if tensor.stored is not None and rows.size:
            low, high, width = int(rows.min()), int(rows.max()) + 1, tensor.n_weights // n_rows
            return self.read(tensor, low * width, high * width).reshape(high - low, -1)[rows - low]
        row_bytes = tensor.require_format().row_bytes(tensor.n_weights // n_rows) if n_rows else 0
        if self._io == "pread":
            starts = [tensor.offset + int(row) * row_bytes for row in rows]
            copies = [self._copied(tensor.file, start, start + row_bytes) for start in starts]
            return np.concatenate([*copies, np.empty(0, np.uint8)]).reshape(len(rows), row_bytes)
        return self.read(tensor, 0, tensor.n_weights).reshape(n_rows, row_bytes)[rows]

    def expect(self, tensor: SourceTensor, first: int, last: int) -> None:
        """Weights [first, last) will be read soon: the system may begin to fetch them. A hint. Raises what
        `read` raises.
        """
        if tensor.stored is not None:
            return
        start, stop = _byte_range(tensor, first, last)
        if self._io == "mmap":
            advise_use(self._map(tensor.file)[0], start, stop, in_large_pages=False)
        else:
            begin_read(self._descriptor(tensor.file), stop - start, start)

    def release(self, tensor: SourceTensor, first: int, last: int) -> None:
        """Weights [first, last) are done with: their pages need not stay in this process's memory. A hint;
        reading them again works.
        """
        if tensor.stored is not None:
            return
        start, stop = _byte_range(tensor, first, last)
        if self._io == "mmap":
            release_pages(self._map(tensor.file)[0], start, stop)

    def check_unchanged(self, only: SourceFile | None = None) -> None:
        """Prove that every file of the checkpoint, or the one named, still has the size and time of change
        that it had when its header was read.

        Raises InvalidError (R-002), StorageError.
        """
        for file in self._files if only is None else (only,):
            with storage_errors("read", file.path):
                status = os.stat(file.path)
            _check_same(file, status, "R-002", "the file changed while it was read")

    def _copied(self, file: SourceFile, start: int, stop: int) -> Bytes:
        """Bytes [start, stop) of a file, read into memory of their own."""
        fd = self._descriptor(file)
        with storage_errors("read", file.path):
            content = read_at(fd, stop - start, start)
        if len(content) != stop - start:
            raise InvalidError(
                file.path,
                Finding(
                    "R-002",
                    "the file was shortened while it was read",
                    offset=start + len(content),
                    expected=f"{stop - start} bytes",
                ),
            )
        return np.frombuffer(content, np.uint8)

    def _descriptor(self, file: SourceFile) -> int:
        """The file, opened when it is first wanted."""
        with self._lock:
            if file not in self._descriptors:
                with storage_errors("read", file.path):
                    fd = os.open(file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                self._descriptors[file] = fd
                _check_same(file, os.fstat(fd), "R-001", "the file changed after its header was read")
            return self._descriptors[file]

    def _map(self, file: SourceFile) -> tuple[mmap.mmap, Bytes]:
        with self._lock:
            if file not in self._maps:
                with storage_errors("read", file.path), open(file.path, "rb") as opened:
                    _check_same(
                        file, os.fstat(opened.fileno()), "R-001", "the file changed after its header was read"
                    )
                    mapping = mmap.mmap(opened.fileno(), file.nbytes, access=mmap.ACCESS_READ)
                self._maps[file] = mapping, np.frombuffer(mapping, np.uint8)
            return self._maps[file]


def _byte_range(tensor: SourceTensor, first: int, last: int) -> tuple[int, int]:
    """Where weights [first, last) lie in the file, in bytes from its start."""
    block_format = tensor.require_format()
    if (
        not 0 <= first <= last <= tensor.n_weights
        or first % block_format.block_size
        or last % block_format.block_size
    ):
        raise UsageError(
            f"{tensor.name} has {tensor.n_weights} weights in blocks of {block_format.block_size}; asked for [{first}, {last})"
        )
    return tensor.offset + block_format.nbytes(first), tensor.offset + block_format.nbytes(last)


def _check_same(file: SourceFile, status: os.stat_result, rule: str, message: str) -> None:
    found, expected = (status.st_size, status.st_mtime_ns), (file.nbytes, file.mtime_ns)
    if found != expected:
        raise InvalidError(file.path, Finding(rule, message, found=found, expected=f"(bytes, ns) {expected}"))
