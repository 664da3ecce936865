"""Vectors to rows of bytes and back: every row by itself, and all rows of the same size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gguflow.arrays import Bytes, Floats
from gguflow.blocks import BlockFormat
from gguflow.blocks.families import Encoding
from gguflow.errors import Finding, NonFiniteError, ShapeError
from gguflow.quantization import dequantize, encode_and_look, first_non_finite, first_unsound

PIECE = 1 << 20
"""Numbers that are encoded, decoded or judged at a time."""


@dataclass(frozen=True)
class RowCodec(ABC):
    """How a row is stored.

    name: the name of the format, as in the file.
    width: the number of numbers in a row.
    row_nbytes: the size of a row in bytes.
    type_id: ggml's number of the type of the tensor that the rows make up.
    row_length: ne[0] of that tensor.
    """

    name: str
    width: int
    row_nbytes: int
    type_id: int
    row_length: int

    def encode(self, vectors: ArrayLike) -> Bytes:
        """Encode vectors as rows: uint8[n, row_nbytes].

        vectors: the vectors; float[n, width] or float[width] for one, of any float type.

        Raises ShapeError, NonFiniteError.
        """
        array = np.asarray(vectors)
        if array.ndim not in (1, 2) or array.shape[-1] != self.width:
            raise ShapeError(
                f"a row has {self.width} numbers: float[n, {self.width}] or float[{self.width}] is needed, "
                f"not {list(array.shape)}"
            )
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise ShapeError(f"rows are made of floats, not {array.dtype.name}")
        if array.dtype != np.float32:
            with np.errstate(
                over="ignore"
            ):  # a float64 that is too large becomes an infinity, and is refused as one
                array = array.astype(np.float32)
        rows = np.ascontiguousarray(array).reshape(-1, self.width)
        bad = first_non_finite(rows.reshape(-1))
        if bad >= 0:
            raise NonFiniteError(
                f"{rows.flat[bad]} at index [{bad // self.width}, {bad % self.width}] cannot be quantized",
                bad,
            )
        packed = np.empty((len(rows), self.row_nbytes), np.uint8)
        for piece in self.pieces(len(rows)):
            bad = self._encode(rows[piece], packed[piece])
            if bad >= 0:
                bad += piece.start * self.width
                raise NonFiniteError(
                    f"the numbers at index [{bad // self.width}, {bad % self.width}] and on are too large "
                    f"for {self.name}",
                    bad,
                )
        return packed

    def decode(self, packed: Bytes, out: Floats) -> None:
        """Decode rows.

        packed: the rows; uint8[n, row_nbytes].
        out: the array for the numbers; C-contiguous float32[n, width].

        Raises a FileError if a row of the parametric family is not a valid chunk.
        """
        for piece in self.pieces(len(packed)):
            self._decode(packed[piece], out[piece])

    def pieces(self, n: int) -> list[slice]:
        """Slices of n rows, each with as many rows as are processed at a time.

        n: the number of rows.
        """
        step = max(PIECE // self.width, 1)
        return [slice(first, min(first + step, n)) for first in range(0, n, step)]

    @abstractmethod
    def _encode(self, rows: Floats, out: Bytes) -> int:
        """Finite rows into blocks. A number in the first block whose scale cannot be held, or -1."""

    @abstractmethod
    def _decode(self, packed: Bytes, out: Floats) -> None: ...


@dataclass(frozen=True)
class PayloadRows(RowCodec):
    """Rows in an encoding of a family: a family's module `rows` makes them (`row_codec`).

    encoding: the encoding of the rows.
    joins: whether several rows are encoded as one tensor.
    """

    encoding: Encoding
    joins: bool

    @abstractmethod
    def judge(self, packed: Bytes) -> Iterator[Finding]:
        """What is wrong in rows.

        packed: one row, or any number of rows if they join; uint8[n, row_nbytes].
        """


@dataclass(frozen=True)
class BlockRows(RowCodec):
    """Rows of a block format, stored as its blocks.

    format: the block format.
    """

    format: BlockFormat

    def _encode(self, rows: Floats, out: Bytes) -> int:
        weights, flat = rows.reshape(-1), out.reshape(-1)
        _, found = encode_and_look(weights, self.format, flat)
        return first_unsound(found, flat, self.format, weights)

    def _decode(self, packed: Bytes, out: Floats) -> None:
        dequantize(packed, self.format, threads=1, out=out)
