"""The tensor of a row store in an encoding of the parametric family: the surface of `Tensor`, over rows that
are chunks without a descriptor.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.container.header import TensorInfo
from gguflow.container.mapped_file import Bytes, MappedFile
from gguflow.container.reader import GgufFile
from gguflow.parametric import Encoding, Geometry, SourceType
from gguflow.rows.chunk_rows import ChunkRows
from gguflow.runtime.payload import PayloadTensor
from gguflow.runtime.tensor import Owner


class RowsTensor(PayloadTensor):
    """shape: (rows when the file was opened, width). raw: uint8[rows, row_nbytes]. Otherwise as
    PayloadTensor.
    """

    def __init__(self, model: Owner, file: GgufFile, info: TensorInfo, codec: ChunkRows) -> None:
        self._codec = codec
        super().__init__(model, file, info)

    @property
    def raw(self) -> Bytes:
        return super().raw.reshape(-1, self._codec.row_nbytes)

    @functools.cached_property
    def _payload(self) -> StoredRows:  # type: ignore[override]
        return StoredRows(self._codec, self._file, self.offset, self._stored_nbytes // self._codec.row_nbytes)


class StoredRows:
    """What PayloadTensor asks of a payload, answered by rows in a file. shape: (n_rows, width)."""

    source_type = SourceType.F32

    def __init__(self, codec: ChunkRows, file: MappedFile, offset: int, n_rows: int) -> None:
        self.shape = (n_rows, codec.width)
        self.geometry = Geometry(codec.encoding, (max(n_rows, 1), codec.width))
        self._codec, self._file, self._offset = codec, file, offset

    @property
    def encoding(self) -> Encoding:
        return self._codec.encoding

    def decode_rows(self, first: int, last: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """float32[last - first, width]. Raises what reading raises."""
        out = np.empty((last - first, self._codec.width), np.float32) if out is None else out
        start, stop = (self._offset + row * self._codec.row_nbytes for row in (first, last))
        self._codec.decode(self._file.read(start, stop).reshape(-1, self._codec.row_nbytes), out)
        return out
