"""Tensors of the parametric family that are stored in parts, as the payload that the parts make: every reader
of payloads reads them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Bytes
from gguflow.parametric import descriptor
from gguflow.parametric.chunks import assemble
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.stages.stored import Parts
from gguflow.parametric.views import View, weights_per_item
from gguflow.sources.base import ReadStored, SourceTensor


class JoinedParts:
    """The bytes of a payload that is not stored as a whole: a slice is put together from the parts. A slice
    is either before the chunks, or inside one of them.

    geometry: of a fixed size, in which the parts are continuous from chunk to chunk.
    parts: as long as the geometry requires.
    read: reads bytes [start, stop) of a file.
    """

    def __init__(self, geometry: Geometry, parts: Parts, read: ReadStored) -> None:
        self.size = geometry.payload_nbytes
        self._geometry = geometry
        self._parts = parts
        self._read = read
        tables = np.float32(parts.offset).tobytes() if geometry.encoding.needs_offset else b""
        head = descriptor.build(geometry, geometry.payload_nbytes) + tables
        self._prefix = np.frombuffer(descriptor.sealed(head.ljust(geometry.prefix_nbytes, b"\0")), np.uint8)

    def __getitem__(self, part: slice) -> Bytes:
        start, stop, _ = part.indices(self.size)
        if stop <= self._prefix.size:
            return self._prefix[start:stop]
        i = (start - self._prefix.size) // self._geometry.chunk_nbytes(self._geometry.rows_per_chunk)
        at = self._geometry.fixed_offset(i)
        return self._chunk(i)[start - at : stop - at]

    def _chunk(self, i: int) -> Bytes:
        g = self._geometry
        rows = g.chunk_rows(i)
        first = i * g.rows_per_chunk * g.columns
        last = first + rows * g.columns
        codes = np.zeros(g.n_runs(rows) * g.run_bytes, np.uint8)
        stored = self._items(self._parts.codes, View.CODES, first, last)
        codes[: stored.size] = stored
        if (last - first) % (8 // g.encoding.bits):
            codes[stored.size - 1] &= 0xF0  # a code of no weight, which some writers do not leave zero
        sections = {"codes": codes}
        if self._parts.meta is None:
            sections["scales"] = self._items(self._parts.scales, View.SCALES, first, last)
        elif self._parts.book:
            sections["scales"] = self._made_whole(self._parts.meta, first, last)
        else:
            sections["scales"] = self._items(self._parts.scales, View.SCALE_CODES, first, last)
            sections["meta"] = self._items(self._parts.meta, View.META, first, last)
        return assemble(g, rows, sections, np.empty(g.chunk_nbytes(rows), np.uint8))

    def _made_whole(self, meta: SourceTensor, first: int, last: int) -> Bytes:
        """The scales of the blocks that begin in weights [first, last), as binary32: a value of the book
        times the meta-scale, and the offset.
        """
        parts, block = self._parts, self._geometry.encoding.block
        blocks = np.arange(first // block, -(-last // block))
        supers = blocks // parts.super_block
        codes = self._read(
            parts.scales.file, parts.scales.offset + int(blocks[0]), parts.scales.offset + int(blocks[-1]) + 1
        )
        stored = self._read(
            meta.file, meta.offset + 4 * int(supers[0]), meta.offset + 4 * int(supers[-1]) + 4
        )
        with np.errstate(all="ignore"):
            steps = np.frombuffer(stored.tobytes(), "<f4")[supers - supers[0]]
            scales: NDArray[np.float32] = np.array(parts.book, np.float32)[codes] * steps + np.float32(
                parts.offset
            )
        return np.ascontiguousarray(scales, "<f4").view(np.uint8)

    def _items(self, tensor: SourceTensor, view: View, first: int, last: int) -> Bytes:
        """What belongs to the weights [first, last) of the flattened tensor."""
        per = weights_per_item(self._geometry, view)
        size = 4 if view in (View.SCALES, View.META) else 1
        return self._read(
            tensor.file, tensor.offset + first // per * size, tensor.offset + -(-last // per) * size
        )
