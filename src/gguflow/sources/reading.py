"""Weights of a checkpoint, mapped or copied from its files, and the proof that the files did not change."""

from __future__ import annotations

import threading
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks.families import part
from gguflow.container.mapped_file import Bytes, MappedFile, check_io, check_unchanged
from gguflow.errors import UsageError
from gguflow.sources.base import Checkpoint, PayloadReader, SourceFile, SourceTensor, StoredPayload


class TensorReader:
    """Reads the tensors of a checkpoint; each file is opened once, when one of its tensors is first needed.

    Threads may share one reader. `read` returns views of the mapped file, which stay valid as long as they
    are referred to, even after the reader is closed. If a file is shortened while its bytes are in use, the
    process is killed (SIGBUS); if it is overwritten in place, `check_unchanged` reports it.

    checkpoint: the checkpoint whose tensors are read.
    io: "mmap" as described, or "pread", as in `MappedFile`.
    """

    def __init__(self, checkpoint: Checkpoint, io: str = "mmap") -> None:
        check_io(io)
        self._io = io
        self._files = checkpoint.files
        self._opened: dict[SourceFile, MappedFile] = {}
        self._lock = threading.Lock()
        self._payload_readers: dict[str, PayloadReader] = {}

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files, and unmap each as soon as no array refers to it any more."""
        while self._opened:
            self._opened.popitem()[1].close()

    def read(self, tensor: SourceTensor, first: int, last: int) -> Bytes:
        """The packed bytes of a range of weights: uint8[...], read-only, without a copy; any alignment.

        For a payload, the decoded weights, as a copy.

        tensor: the tensor to read.
        first: the first weight of the flattened tensor.
        last: the end of the range, exclusive.

        Raises UnsupportedError (S-019), InvalidError (R-001, R-002), StorageError, UsageError if the range is
        not in the tensor.
        """
        if tensor.stored is not None:
            return self.payload_reader(tensor.stored).read(tensor, first, last)
        start, stop = _byte_range(tensor, first, last)
        return self._stored(tensor.file, start, stop)

    def payload_reader(self, stored: StoredPayload) -> PayloadReader:
        """The reader for the payloads of a family; its own methods offer more than the protocol does.

        stored: a payload of the family.
        """
        family = stored.encoding.family
        with self._lock:
            if family not in self._payload_readers:
                made = part(family, "stages.payload_source").PayloadReader(self._stored)
                self._payload_readers[family] = made
            return self._payload_readers[family]

    def _stored(self, file: SourceFile, start: int, stop: int) -> Bytes:
        """Bytes [start, stop) of a file."""
        return self._open(file).view(start, stop)

    def read_rows(self, tensor: SourceTensor, rows: NDArray[np.int64]) -> Bytes:
        """Copy rows in the given order: uint8[n, row_bytes].

        A row is what one index of the first axis selects: a row of a matrix, one weight of a vector.

        tensor: the tensor to read.
        rows: the indices of the rows; int64[n].

        Raises what `read` raises, UsageError if an index is not in the tensor.
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
            copies = [self._stored(tensor.file, start, start + row_bytes) for start in starts]
            return np.concatenate([*copies, np.empty(0, np.uint8)]).reshape(len(rows), row_bytes)
        return self.read(tensor, 0, tensor.n_weights).reshape(n_rows, row_bytes)[rows]

    def expect(self, tensor: SourceTensor, first: int, last: int) -> None:
        """Hint that weights will be read soon, so that the system may begin to read them.

        tensor: the tensor that will be read.
        first: the first weight of the flattened tensor.
        last: the end of the range, exclusive.

        Raises what `read` raises.
        """
        if tensor.stored is not None:
            return
        self._open(tensor.file).prefetch(*_byte_range(tensor, first, last), in_large_pages=False)

    def release(self, tensor: SourceTensor, first: int, last: int) -> None:
        """Hint that weights are no longer needed in this process's memory; reading them again works.

        tensor: the tensor that was read.
        first: the first weight of the flattened tensor.
        last: the end of the range, exclusive.
        """
        if tensor.stored is not None:
            return
        self._open(tensor.file).release(*_byte_range(tensor, first, last))

    def check_unchanged(self, only: SourceFile | None = None) -> None:
        """Prove that files still have the size and time of change that they had when their headers were read.

        only: the file to check; None for every file of the checkpoint.

        Raises InvalidError (R-002), StorageError.
        """
        for file in self._files if only is None else (only,):
            check_unchanged(file.path, file.identity)

    def _open(self, file: SourceFile) -> MappedFile:
        """The file, opened when it is first wanted."""
        opened = self._opened.get(file)
        if opened is not None:
            return opened
        with self._lock:
            if file not in self._opened:
                self._opened[file] = MappedFile(file.path, self._io, expected=file.identity)
            return self._opened[file]


def _byte_range(tensor: SourceTensor, first: int, last: int) -> tuple[int, int]:
    """Where weights [first, last) lie in the file, in bytes from its start."""
    block_format = tensor.require_format()
    if (
        not 0 <= first <= last <= tensor.n_weights
        or first % block_format.block_size
        or last % block_format.block_size
    ):
        raise UsageError(
            f"{tensor.name} has {tensor.n_weights} weights in blocks of {block_format.block_size}; "
            f"asked for [{first}, {last})"
        )
    return tensor.offset + block_format.nbytes(first), tensor.offset + block_format.nbytes(last)
