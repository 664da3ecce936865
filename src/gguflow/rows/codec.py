"""Vectors to rows of bytes and back: every row by itself, in as many bytes as every other.

In a block format a row is its blocks. In an encoding of the parametric family a row is the one chunk of a tensor of one row: the sections where
`Geometry.sections` puts them, each padded to eight bytes; what pads a chunk of a payload to 64 is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow import blocks, parametric
from gguflow.blocks import BlockFormat
from gguflow.errors import NonFiniteError, ShapeError, UsageError
from gguflow.parametric import Encoder, Encoding, Geometry, Payload
from gguflow.parametric.geometry import SECTION_ALIGNMENT, aligned
from gguflow.quantization import dequantize, first_non_finite, quantize

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

MAX_WIDTH = 1 << 28
_PIECE = 1 << 20
"""Numbers that are encoded or decoded at a time."""


@dataclass(frozen=True)
class RowCodec(ABC):
    """What a row is. name: of the format, as the file has it. width: numbers in a row. row_nbytes: its bytes.

    type_id, row_length: of the tensor that the rows make: ggml's number of the type, and ne[0].
    """

    name: str
    width: int
    row_nbytes: int
    type_id: int
    row_length: int

    def encode(self, vectors: ArrayLike) -> Bytes:
        """float[n, width] (or one vector: float[width]), of any float type -> uint8[n, row_nbytes]. Raises ShapeError, NonFiniteError."""
        array = np.asarray(vectors)
        if array.ndim not in (1, 2) or array.shape[-1] != self.width:
            raise ShapeError(f"a row has {self.width} numbers: float[n, {self.width}] or float[{self.width}] is needed, not {list(array.shape)}")
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise ShapeError(f"rows are made of floats, not {array.dtype.name}")
        with np.errstate(over="ignore"):  # a float64 that is too large becomes an infinity, and is refused as one
            rows = np.ascontiguousarray(array, np.float32).reshape(-1, self.width)
        bad = first_non_finite(rows.reshape(-1))
        if bad >= 0:
            raise NonFiniteError(f"{rows.flat[bad]} at index [{bad // self.width}, {bad % self.width}] cannot be quantized", bad)
        packed = np.empty((len(rows), self.row_nbytes), np.uint8)
        for piece in self._pieces(len(rows)):
            bad = self._encode(rows[piece], packed[piece])
            if bad >= 0:
                bad += piece.start * self.width
                raise NonFiniteError(f"the numbers at index [{bad // self.width}, {bad % self.width}] and on are too large for {self.name}", bad)
        return packed

    def decode(self, packed: Bytes, out: Floats) -> None:
        """uint8[n, row_nbytes] into C-contiguous float32[n, width]."""
        for piece in self._pieces(len(packed)):
            self._decode(packed[piece], out[piece])

    def _pieces(self, n: int) -> list[slice]:
        step = max(_PIECE // self.width, 1)
        return [slice(first, min(first + step, n)) for first in range(0, n, step)]

    @abstractmethod
    def _encode(self, rows: Floats, out: Bytes) -> int:
        """The first number of a block whose scale cannot be held, or -1."""

    @abstractmethod
    def _decode(self, packed: Bytes, out: Floats) -> None: ...


@dataclass(frozen=True)
class BlockRows(RowCodec):
    """Rows of a block format."""

    format: BlockFormat

    def _encode(self, rows: Floats, out: Bytes) -> int:
        quantize(rows, self.format, out=out)
        size = self.format.type_size
        for code in self.format.reserved_codes:
            word = np.dtype(f"<u{code.width}")
            found = np.ndarray((out.size // size,), word, out.reshape(-1).data, code.offset, (size,)) & word.type(code.mask)
            if not code.tolerated and (found == code.mask).any():
                return int(np.argmax(found == code.mask)) * self.format.block_size
        return -1

    def _decode(self, packed: Bytes, out: Floats) -> None:
        dequantize(packed, self.format, out=out)


@dataclass(frozen=True)
class ChunkRows(RowCodec):
    """Rows of an encoding of the family. joins: whether the chunk of n rows holds the bytes of n chunks of one row, so that one call does for all."""

    encoding: Encoding
    joins: bool

    def payload(self, packed: Bytes) -> Payload:
        """Rows as a payload: what the family's decoder and judge read. One row, or any number where they join."""
        encoder = Encoder(self.encoding, (len(packed), self.width))
        g = encoder.geometry
        content = np.zeros(g.payload_nbytes, np.uint8)
        content[: g.prefix_nbytes] = np.frombuffer(encoder.prefix(), np.uint8)
        for i in range(g.n_chunks):
            first = i * g.rows_per_chunk
            start = g.fixed_offset(i)
            self._move(g, g.chunk_rows(i), packed[first : first + g.chunk_rows(i)], content[start:], to_chunk=True)
        return Payload(content, "row")

    def stray_bytes(self, packed: Bytes) -> NDArray[np.intp]:
        """The rows in which a byte is set that belongs to no section."""
        is_filler = np.ones(self.row_nbytes, np.bool_)
        for section in Geometry(self.encoding, (1, self.width)).sections(1):
            is_filler[section.offset : section.offset + section.nbytes] = False
        return np.flatnonzero(packed[:, is_filler].any(axis=1))

    def _encode(self, rows: Floats, out: Bytes) -> int:
        if not self.joins:
            encoder = Encoder(self.encoding, (1, self.width))
            for row, packed in zip(rows, out, strict=True):
                packed[:] = encoder.encode_chunk(0, row)[: self.row_nbytes]
            return -1
        out[:] = 0
        encoder = Encoder(self.encoding, rows.shape)
        g = encoder.geometry
        for i in range(g.n_chunks):
            part = slice(i * g.rows_per_chunk, i * g.rows_per_chunk + g.chunk_rows(i))
            self._move(g, g.chunk_rows(i), out[part], encoder.encode_chunk(i, rows[part]), to_chunk=False)
        return -1

    def _decode(self, packed: Bytes, out: Floats) -> None:
        if self.joins:
            self.payload(packed).decode_rows(out=out)
        else:
            for i in range(len(packed)):
                self.payload(packed[i : i + 1]).decode_rows(out=out[i : i + 1])

    def _move(self, g: Geometry, n: int, rows: Bytes, chunk: Bytes, *, to_chunk: bool) -> None:
        """Sections between rows, uint8[n, row_nbytes], and the chunk that holds the same section of all rows together."""
        for of_row, of_chunk in zip(g.sections(1), g.sections(n), strict=True):
            in_rows = rows[:, of_row.offset : of_row.offset + of_row.nbytes]
            in_chunk = chunk[of_chunk.offset : of_chunk.offset + of_chunk.nbytes].reshape(n, of_row.nbytes)
            if to_chunk:
                in_chunk[:] = in_rows
            else:
                in_rows[:] = in_chunk


def find_codec(name: str | BlockFormat | Encoding, width: int) -> RowCodec:
    """How rows of `width` numbers are kept in a format.

    Raises UnknownFormatError, ShapeError (a width that does not divide into blocks), UsageError (a format in which a row does not stand alone).
    """
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MAX_WIDTH:
        raise ShapeError(f"a row has 1 to {MAX_WIDTH} numbers, not {width!r}")
    if isinstance(name, Encoding) or (isinstance(name, str) and parametric.is_name(name)):
        return _chunk_rows(name if isinstance(name, Encoding) else parametric.find(name), width)
    block_format = name if isinstance(name, BlockFormat) else blocks.by_name(name)
    if block_format.number_type is not None and block_format.key not in ("f16", "f32"):
        raise UsageError(f"{block_format} does not hold float32 vectors")
    if block_format.importance == "required":
        raise UsageError(f"{block_format} is too coarse to encode without importance, which rows that come one by one do not have")
    return BlockRows(block_format.key, width, block_format.row_bytes(width), block_format.id, width, block_format)


def _chunk_rows(encoding: Encoding, width: int) -> ChunkRows:
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
    return ChunkRows(encoding.name, width, row_nbytes, blocks.FORMATS["i8"].id, row_nbytes, encoding, _joins(one))


def _joins(one: Geometry) -> bool:
    """Whether no block, no byte of packed scales and no super-block would reach from one row into the next."""
    e = one.encoding
    if one.columns % one.run or (e.is_nested and one.n_scales(1) % e.super_block):
        return False
    return all(2 * a.nbytes == b.nbytes for a, b in zip(one.sections(1), Geometry(e, (2, one.columns)).sections(2), strict=True))
