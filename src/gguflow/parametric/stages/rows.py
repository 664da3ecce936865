"""Rows in an encoding of the parametric family: each is the one chunk of a tensor of one row, without
descriptor and without the chunk's padding.

A row has the sections where `Geometry.sections` puts them, each padded to eight bytes; what pads a chunk of a
payload to 64 is left out. Where no block and no super-block would reach from one row into the next, n rows
are encoded and decoded as one tensor of n rows, whose chunks hold the same sections row after row: only the
place of the sections differs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow import blocks
from gguflow.arrays import Bytes, Floats
from gguflow.errors import Finding, UsageError
from gguflow.parametric import Encoder, Encoding, Geometry, Payload, judging
from gguflow.parametric.geometry import SECTION_ALIGNMENT, aligned
from gguflow.rows.codec import PayloadRows


@dataclass(frozen=True)
class ChunkRows(PayloadRows):
    """Rows of an encoding of the family.

    encoding: of every row.
    """

    encoding: Encoding

    def judge(self, packed: Bytes) -> Iterator[Finding]:
        if self.stray_bytes(packed).size:
            yield Finding("E-018", "padding is zero")
        yield from judging.check(self.payload(packed))

    def payload(self, packed: Bytes) -> Payload:
        """Rows as a payload, which the family's decoder and rules can read.

        packed: uint8[n, row_nbytes]; n is 1 unless rows can be joined.
        """
        layout = _layout(self.encoding, len(packed), self.width)
        content = np.zeros(layout.payload_nbytes, np.uint8)
        content[: layout.prefix.size] = layout.prefix
        for chunk in layout.chunks:
            for in_row, in_payload in chunk.sections:
                content[in_payload].reshape(chunk.last - chunk.first, -1)[:] = packed[
                    chunk.first : chunk.last, in_row
                ]
        return Payload(content, "row")

    def stray_bytes(self, packed: Bytes) -> NDArray[np.intp]:
        """Numbers of the rows in which a byte that belongs to no section is not zero: intp[k].

        packed: uint8[n, row_nbytes].
        """
        is_filler = np.ones(self.row_nbytes, np.bool_)
        for in_row, _ in _layout(self.encoding, 1, self.width).chunks[0].sections:
            is_filler[in_row] = False
        return np.flatnonzero(packed[:, is_filler].any(axis=1))

    def _encode(self, rows: Floats, out: Bytes) -> int:
        if not self.joins and len(rows) > 1:
            found = (self._encode(rows[i : i + 1], out[i : i + 1]) for i in range(len(rows)))
            return next((i * self.width for i, bad in enumerate(found) if bad >= 0), -1)
        layout = _layout(self.encoding, len(rows), self.width)
        out[:] = 0
        for i, chunk in enumerate(layout.chunks):
            encoded = layout.encoder.encode_chunk(i, rows[chunk.first : chunk.last])
            for in_row, in_payload in chunk.sections:
                section = encoded[in_payload.start - chunk.start : in_payload.stop - chunk.start]
                out[chunk.first : chunk.last, in_row] = section.reshape(chunk.last - chunk.first, -1)
        return -1

    def _decode(self, packed: Bytes, out: Floats) -> None:
        step = len(packed) if self.joins else 1
        for i in range(0, len(packed), step):
            self.payload(packed[i : i + step]).decode_rows(out=out[i : i + step])


class _Chunk(NamedTuple):
    """Rows [first, last) in a payload.

    first: the first row.
    last: the row after the last one.
    start: where the chunk begins, in bytes from the start of the payload.
    sections: the bytes of each section, in a row and in the payload.
    """

    first: int
    last: int
    start: int
    sections: list[tuple[slice, slice]]


class _Layout(NamedTuple):
    """A number of rows as a tensor of the family.

    encoder: of the tensor.
    prefix: descriptor and padding, which are before the chunks: uint8[n].
    payload_nbytes: size of the payload.
    chunks: the chunks in order.
    """

    encoder: Encoder
    prefix: Bytes
    payload_nbytes: int
    chunks: list[_Chunk]


@functools.lru_cache(maxsize=64)
def _layout(encoding: Encoding, n: int, width: int) -> _Layout:
    encoder = Encoder(encoding, (n, width))
    g = encoder.geometry
    chunks = []
    for i in range(g.n_chunks):
        start, first = g.fixed_offset(i), i * g.rows_per_chunk
        pairs = zip(g.sections(1), g.sections(g.chunk_rows(i)), strict=True)
        sections = [
            (slice(a.offset, a.offset + a.nbytes), slice(start + b.offset, start + b.offset + b.nbytes))
            for a, b in pairs
        ]
        chunks.append(_Chunk(first, first + g.chunk_rows(i), start, sections))
    return _Layout(encoder, np.frombuffer(encoder.prefix(), np.uint8), g.payload_nbytes, chunks)


def row_codec(encoding: Encoding, width: int) -> ChunkRows:
    """The codec for rows that are encoded one by one.

    encoding: of every row.
    width: weights of a row.

    Raises UsageError if rows of this encoding cannot be encoded one by one (their sizes differ, it needs a
    first pass over all rows, or it keeps outliers), ShapeError if it does not take rows of this width.
    """
    reasons = {
        "their sizes would differ": not encoding.is_fixed_size,
        "it looks at all of them first": encoding.needs_first_pass,
        "it keeps outliers": encoding.has_outliers,
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise UsageError(f"rows that come one by one cannot be kept in {encoding.name}: {reason}")
    one = Geometry(encoding, (1, width))
    last = one.sections(1)[-1]
    row_nbytes = aligned(last.offset + last.nbytes, SECTION_ALIGNMENT)
    return ChunkRows(
        encoding.name, width, row_nbytes, blocks.FORMATS["i8"].id, row_nbytes, encoding, _joins(one)
    )


def _joins(one: Geometry) -> bool:
    """Whether no block, no byte of packed scales and no super-block reaches from one row into the next."""
    e = one.encoding
    if one.columns % one.run or (e.is_nested and one.n_scales(1) % e.super_block):
        return False
    return all(
        2 * a.nbytes == b.nbytes
        for a, b in zip(one.sections(1), Geometry(e, (2, one.columns)).sections(2), strict=True)
    )
