"""Payloads of the parametric family as sources: what a tensor decodes to, or a view of it, chunk by chunk."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.errors import UsageError
from gguflow.parametric import Payload
from gguflow.parametric.payload import Slices, StoredBytes
from gguflow.parametric.views import View, content, weights_per_item
from gguflow.sources.base import SourceFile, SourceTensor, Stored
from gguflow.sources.parts import JoinedParts

Bytes = NDArray[np.uint8]

ReadStored = Callable[[SourceFile, int, int], Bytes]
"""Bytes [start, stop) of a file."""


class PayloadReader:
    """Reads payloads for many threads. A thread keeps the chunk that it read last: whoever reads on in small
    steps has it decoded once.
    """

    def __init__(self, read: ReadStored) -> None:
        self._read = read
        self._payloads: dict[tuple[SourceFile, int], Payload] = {}
        self._lock = threading.Lock()
        self._last = _Last()

    def read(self, tensor: SourceTensor, stored: Stored, first: int, last: int) -> Bytes:
        """Weights (or items of the view) [first, last) of the flattened tensor as the bytes of its plain
        format.

        Raises a FileError where the payload is broken, UsageError where the range is not in the tensor, and
        what reading raises.
        """
        if not 0 <= first <= last <= tensor.n_weights:
            raise UsageError(f"{tensor.name} has {tensor.n_weights} weights; asked for [{first}, {last})")
        first, last = first + stored.first, last + stored.first
        payload = self.payload(tensor, stored)
        geometry = payload.geometry
        step = geometry.rows_per_chunk * geometry.columns // weights_per_item(geometry, stored.view)
        if geometry.n_chunks == 1:
            step = max(step, last, 1)  # the last item may be of fewer weights than the others
        size = tensor.require_format().type_size
        parts = [
            self._chunk(tensor, stored.view, payload, i)[
                max(first - i * step, 0) * size : (last - i * step) * size
            ]
            for i in range(first // step, -(-last // step))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.uint8)])

    def payload(self, tensor: SourceTensor, stored: Stored) -> Payload:
        """The payload that a tensor, or what it is a view of, is stored in. Raises a FileError where it is
        none.
        """
        place = tensor.file, tensor.offset
        with self._lock:
            if place not in self._payloads:
                self._payloads[place] = Payload(
                    self._bytes(tensor, stored), f"{tensor.file.path}: {tensor.name}"
                )
            return self._payloads[place]

    def _bytes(self, tensor: SourceTensor, stored: Stored) -> Slices:
        if stored.parts is None:
            return StoredBytes(functools.partial(self._read, tensor.file), tensor.offset, stored.nbytes)
        return JoinedParts(stored.geometry, stored.parts, self._read)

    def _chunk(self, tensor: SourceTensor, view: View, payload: Payload, i: int) -> Bytes:
        """Chunk i, decoded or looked at."""
        key = tensor.file, tensor.offset, view, i
        if self._last.key != key:
            first = i * payload.geometry.rows_per_chunk
            last = first + payload.geometry.chunk_rows(i)
            if view is not View.WEIGHTS:
                found = content(payload, i, view)
            elif payload.encoding.is_lossless:
                found = payload.raw_rows(first, last)
            else:
                found = payload.decode_rows(first, last).view(np.uint8)
            self._last.key, self._last.content = key, found.reshape(-1)
        return self._last.content


class _Last(threading.local):
    """The chunk that a thread read last."""

    key: tuple[Any, ...] | None = None
    content: Bytes = np.empty(0, np.uint8)
