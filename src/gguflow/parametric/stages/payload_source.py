"""Payloads of the parametric family as sources: what a tensor decodes to, or a view of it, chunk by chunk.

A stage of the family (`gguflow.blocks.families.part`): `PayloadReader`, and `decoded` for the payloads of a
file.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import replace
from typing import Any

import numpy as np

from gguflow.arrays import Bytes
from gguflow.blocks import FORMATS
from gguflow.errors import UsageError
from gguflow.parametric import Encoding, Payload, descriptor
from gguflow.parametric.payload import Slices, StoredBytes
from gguflow.parametric.stages.joined_parts import JoinedParts
from gguflow.parametric.stages.stored import Stored, stored_of
from gguflow.parametric.views import View, content, weights_per_item
from gguflow.sources.base import ReadStored, SourceFile, SourceTensor


def decoded(tensor: SourceTensor, content: memoryview) -> SourceTensor:
    """The tensor that a payload decodes to.

    tensor: the I8 tensor that holds the payload.
    content: the bytes of its file.

    Raises a FileError with the rule that the descriptor breaks.
    """
    geometry = descriptor.at(content, tensor.offset, f"{tensor.file.path}: {tensor.name}").geometry
    plain = FORMATS[geometry.source_type.name.lower() if geometry.encoding.is_lossless else "f32"]
    return replace(
        tensor,
        format=plain,
        shape=geometry.shape,
        dtype=geometry.encoding.name,
        stored=Stored(geometry, tensor.n_weights),
    )


def form_at(content: memoryview, offset: int, file: str = "") -> tuple[Encoding, tuple[int, ...]]:
    """The encoding and the shape of a payload.

    content: the bytes of the file.
    offset: of the payload, in bytes.
    file: name of the file, for messages.

    Raises a FileError with the rule that the descriptor breaks.
    """
    geometry = descriptor.at(content, offset, file).geometry
    return geometry.encoding, geometry.shape


class PayloadReader:
    """Reads payloads for many threads. Each thread keeps the chunk that it read last, so that reading on in
    small steps decodes it only once.

    read: reads bytes [start, stop) of a file.
    """

    def __init__(self, read: ReadStored) -> None:
        self._read = read
        self._payloads: dict[tuple[SourceFile, int], Payload] = {}
        self._lock = threading.Lock()
        self._last = _Last()

    def read(self, tensor: SourceTensor, first: int, last: int) -> Bytes:
        """Weights, or items of a view, of a tensor as the bytes of its plain format: uint8[n].

        tensor: a payload, or a view of one.
        first: the first weight or item of the flattened tensor.
        last: the one after the last.

        Raises a FileError if the payload is broken, UsageError if the range is not inside the tensor, and
        what reading raises.
        """
        if not 0 <= first <= last <= tensor.n_weights:
            raise UsageError(f"{tensor.name} has {tensor.n_weights} weights; asked for [{first}, {last})")
        stored = stored_of(tensor)
        first, last = first + stored.first, last + stored.first
        payload = self.payload(tensor)
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

    def payload(self, tensor: SourceTensor) -> Payload:
        """The payload in which a tensor is stored.

        tensor: a payload, or a view of one.

        Raises a FileError if it is not a payload.
        """
        stored, place = stored_of(tensor), (tensor.file, tensor.offset)
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
