"""Payloads of the parametric family as sources: what a tensor decodes to, chunk by chunk."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gguflow.errors import UsageError
from gguflow.parametric import Payload
from gguflow.sources.base import SourceFile, SourceTensor

Bytes = NDArray[np.uint8]

ReadStored = Callable[[SourceFile, int, int], Bytes]
"""Bytes [start, stop) of a file."""

Place = tuple[SourceFile, int]
"""Where a payload lies: the file, and the offset of its first byte."""


def _place(tensor: SourceTensor) -> Place:
    return tensor.file, tensor.offset


class StoredBytes:
    """The bytes of a payload where they lie: what is sliced is read, and nothing else."""

    def __init__(self, tensor: SourceTensor, read: ReadStored) -> None:
        self.size = tensor.stored_nbytes
        self._tensor = tensor
        self._read = read

    def __getitem__(self, part: slice) -> Bytes:
        start, stop, _ = part.indices(self.size)
        return self._read(self._tensor.file, self._tensor.offset + start, self._tensor.offset + max(start, stop))


class PayloadReader:
    """Reads payloads for many threads. A thread keeps the chunk that it read last: whoever reads on in small steps has it decoded once."""

    def __init__(self, read: ReadStored) -> None:
        self._read = read
        self._payloads: dict[Place, Payload] = {}
        self._lock = threading.Lock()
        self._last = _Last()

    def read(self, tensor: SourceTensor, first: int, last: int) -> Bytes:
        """Weights [first, last) of the flattened tensor as the bytes of its plain format.

        Raises a FileError where the payload is broken, UsageError where the range is not in the tensor, and what reading raises.
        """
        if not 0 <= first <= last <= tensor.n_weights:
            raise UsageError(f"{tensor.name} has {tensor.n_weights} weights; asked for [{first}, {last})")
        first, last = first + tensor.skipped, last + tensor.skipped
        payload = self._payload(tensor)
        step = payload.geometry.rows_per_chunk * payload.geometry.columns
        size = tensor.require_format().type_size
        parts = [
            self._chunk(tensor, payload, i)[max(first - i * step, 0) * size : (last - i * step) * size]
            for i in range(first // step, -(-last // step))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.uint8)])

    def _payload(self, tensor: SourceTensor) -> Payload:
        with self._lock:
            if _place(tensor) not in self._payloads:
                self._payloads[_place(tensor)] = Payload(StoredBytes(tensor, self._read), f"{tensor.file.path}: {tensor.name}")
            return self._payloads[_place(tensor)]

    def _chunk(self, tensor: SourceTensor, payload: Payload, i: int) -> Bytes:
        """Chunk i, decoded."""
        if self._last.key != (_place(tensor), i):
            first = i * payload.geometry.rows_per_chunk
            last = first + payload.geometry.chunk_rows(i)
            rows = payload.raw_rows(first, last) if payload.encoding.is_lossless else payload.decode_rows(first, last).view(np.uint8)
            self._last.key, self._last.content = (_place(tensor), i), rows.reshape(-1)
        return self._last.content


class _Last(threading.local):
    """The chunk that a thread read last."""

    key: tuple[Place, int] | None = None
    content: Bytes = np.empty(0, np.uint8)
