"""A tensor that is stored as a payload of the parametric family: the surface of `Tensor`, over chunks instead
of blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.arguments import shown
from gguflow.arrays import Bytes, Floats, as_array, output_array, separate
from gguflow.blocks import FORMATS
from gguflow.container.header import TensorInfo
from gguflow.container.mapped_file import MappedFile
from gguflow.container.reader import GgufFile
from gguflow.errors import UsageError, printable
from gguflow.packed_matmul import matmul
from gguflow.parametric import Encoding, Geometry, Payload, SourceType
from gguflow.parametric.payload import StoredBytes
from gguflow.parametric.stages.rows import ChunkRows
from gguflow.runtime.tensor import Owner, Tensor, put
from gguflow.threads import run


class PayloadTensor(Tensor):
    """A tensor in an encoding of the parametric family. Only the chunks of the rows that are used are read.

    shape: of what it decodes to.
    format: I8, as it is stored.
    encoding: of the payload.
    """

    def __init__(self, model: Owner, file: GgufFile, info: TensorInfo) -> None:
        """Open the payload of a tensor.

        model: what owns the tensor.
        file: the file that holds it.
        info: its entry in the tensor table.

        Raises a FileError with the broken rule if the tensor does not hold a good payload.
        """
        super().__init__(model, file, info, FORMATS["i8"])
        self._stored_nbytes = info.n_weights
        self.shape = self._payload.shape
        self._first_row = 0

    @property
    def encoding(self) -> Encoding:
        return self._payload.encoding

    @property
    def nbytes(self) -> int:
        """Bytes of the whole payload in the file."""
        return self._stored_nbytes

    @property
    def raw(self) -> Bytes:
        """The payload as it is stored: uint8[nbytes], read-only; `gguflow.dequantize` decodes it too."""
        return self._file.read(self.offset, self.offset + self._stored_nbytes)

    def numpy(self) -> NDArray[Any]:
        raise UsageError(
            f"{self.name} is {self.encoding.name}: a payload has no view as numbers; dequantize() decodes it"
        )

    def matmul(
        self,
        x: ArrayLike,
        *,
        activations: str = "float32",
        threads: int | None = None,
        out: Floats | None = None,
    ) -> Floats:
        """As `Tensor.matmul`, by chunks of decoded rows; activations in float32 only."""
        self._require_matrix()
        if activations != "float32":
            raise UsageError(
                f"{self.encoding.name} takes activations in float32 only, not {shown(activations)}"
            )
        vectors = np.asarray(as_array(x, "x"), np.float32)
        n_rows, step = self.shape[0], self._payload.geometry.rows_per_chunk
        product = output_array(out, (*vectors.shape[:-1], n_rows), np.dtype(np.float32))
        vectors = separate(vectors, product)

        def work(first: int, last: int) -> None:
            rows = self.dequantize(slice(first, last), threads=1)
            product[..., first:last] = matmul(rows.view(np.uint8), FORMATS["f32"], vectors, threads=1)

        run(work, [(first, min(first + step, n_rows)) for first in range(0, n_rows, step)], threads)
        return product

    @property
    def _form(self) -> str:
        return f"{self.encoding.name}, {self.nbytes} bytes"

    @property
    def _is_plain(self) -> bool:
        return False

    def _move_by(self, n_weights: int) -> None:
        self._first_row += n_weights // self._payload.geometry.columns

    def _steps(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Whole rows, none of them beyond a chunk."""
        geometry = self._payload.geometry
        step, moved = geometry.rows_per_chunk * geometry.columns, self._first_row * geometry.columns
        while first < last:
            stop = min(last, ((first + moved) // step + 1) * step - moved)
            yield first, stop
            first = stop

    def _decode(self, first: int, last: int, out: NDArray[Any]) -> None:
        payload, columns = self._readable, self._payload.geometry.columns
        rows = self._first_row + first // columns, self._first_row + last // columns
        is_double = payload.encoding.is_lossless and payload.source_type.nbytes == 8
        with np.errstate(over="ignore", invalid="ignore"):
            if out.dtype == np.float32 and not is_double:
                payload.decode_rows(*rows, out.reshape(-1, columns))
            else:
                put(payload.decode_rows(*rows).astype(np.float32, copy=False).reshape(-1), out)

    @functools.cached_property
    def _payload(self) -> Payload:
        return Payload(
            StoredBytes(self._file.read, self.offset, self._stored_nbytes),
            f"{self._file.path}: {printable(self.name)}",
        )

    @property
    def _readable(self) -> Payload:
        """The payload, if the file is still open and whole.

        Raises what `raw` raises.
        """
        self._file.read(self.offset + self._stored_nbytes - 1, self.offset + self._stored_nbytes)
        return self._payload


class RowsTensor(PayloadTensor):
    """A tensor of the rows of a row store; otherwise the same as PayloadTensor.

    shape: (number of rows when the file was opened, width).
    raw: uint8[rows, row_nbytes].
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
    """The part of a payload's interface that PayloadTensor uses, for rows in a file.

    codec: of the rows.
    file: the file that holds them.
    offset: of the first row, in bytes.
    n_rows: number of rows.

    shape: (n_rows, width).
    """

    source_type = SourceType.F32

    def __init__(self, codec: ChunkRows, file: MappedFile, offset: int, n_rows: int) -> None:
        self.shape = (n_rows, codec.width)
        self.geometry = Geometry(codec.encoding, (max(n_rows, 1), codec.width))
        self._codec, self._file, self._offset = codec, file, offset

    @property
    def encoding(self) -> Encoding:
        return self._codec.encoding

    def decode_rows(self, first: int, last: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Decode rows to float32[last - first, width].

        first: the first row.
        last: the row after the last one.
        out: where to put them; None for new memory.

        Raises what reading raises.
        """
        out = np.empty((last - first, self._codec.width), np.float32) if out is None else out
        start, stop = (self._offset + row * self._codec.row_nbytes for row in (first, last))
        self._codec.decode(self._file.read(start, stop).reshape(-1, self._codec.row_nbytes), out)
        return out
