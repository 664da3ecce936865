"""A tensor that is stored as a payload of the parametric family: the surface of `Tensor`, over chunks instead of blocks."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.blocks import FORMATS
from gguflow.container.header import TensorInfo
from gguflow.errors import ShapeError, UsageError, printable
from gguflow.parallel import run
from gguflow.parametric import Encoding, Payload
from gguflow.products import matmul
from gguflow.quantization import Floats, encode, output_array
from gguflow.runtime.files import BlockFile, Bytes
from gguflow.runtime.tensor import DTYPES, Rows, Tensor, index_of

if TYPE_CHECKING:
    from gguflow.runtime.model import Model


class PayloadTensor(Tensor):
    """A tensor in an encoding of the parametric family. shape: of what it decodes to; format: I8, as it is stored; encoding: what it means.

    Only the chunks of the rows that are asked for are touched.
    """

    def __init__(self, model: Model, file: BlockFile, info: TensorInfo) -> None:
        """Raises a FileError with the broken rule where the tensor holds no good payload."""
        super().__init__(model, file, info, FORMATS["i8"])
        self._stored_nbytes = info.n_weights
        self.shape = self._payload.shape
        self._first_row = 0

    @property
    def encoding(self) -> Encoding:
        return self._payload.encoding

    @property
    def nbytes(self) -> int:
        """Bytes in the file, of the whole payload."""
        return self._stored_nbytes

    @property
    def raw(self) -> Bytes:
        """The payload as it is: uint8[nbytes], read-only; `gguflow.dequantize` decodes it too."""
        return self._file.read(self.offset, self.offset + self._stored_nbytes)

    def numpy(self) -> NDArray[Any]:
        raise UsageError(f"{self.name} is {self.encoding.name}: a payload has no view as numbers; dequantize() decodes it")

    def dequantize(self, rows: Rows | None = None, *, out: NDArray[Any] | None = None, dtype: str = "float32", threads: int = 1) -> NDArray[Any]:
        if dtype not in DTYPES:
            raise UsageError(f"dtype is {', '.join(DTYPES)}, not {dtype!r}")
        shape, ranges = self._ranges(rows)
        target = output_array(out, shape, DTYPES[dtype])
        flat = target.reshape(-1, self.shape[-1])
        columns, step = self.shape[-1], self._payload.geometry.rows_per_chunk
        cut = []  # (first row, last row, place in the result): none goes beyond a chunk
        for start, stop, place in ranges:
            first, last = self._first_row + start // columns, self._first_row + stop // columns
            while first < last:
                end = min(last, (first // step + 1) * step)
                cut.append((first, end, place // columns))
                place += (end - first) * columns
                first = end

        def work(i: int, j: int) -> None:
            for first, last, place in cut[i:j]:
                _decode_into(self._readable, first, last, flat[place : place + last - first])

        run(work, [(i, i + 1) for i in range(len(cut))] if threads != 1 else [(0, len(cut))], threads)
        return target

    def matmul(self, x: ArrayLike, *, activations: str = "float32", threads: int = 1, out: Floats | None = None) -> Floats:
        """As `Tensor.matmul`, by chunks of decoded rows; activations in float32 only."""
        if self.ndim != 2:
            raise ShapeError(f"{self.name} has shape {list(self.shape)}: a product needs a matrix; of a stack, take one: tensor[i]")
        if activations != "float32":
            raise UsageError(f"{self.encoding.name} takes activations in float32 only, not {activations!r}")
        vectors = np.asarray(x, np.float32)
        n_rows, step = self.shape[0], self._payload.geometry.rows_per_chunk
        product = output_array(out, (*vectors.shape[:-1], n_rows), np.dtype(np.float32))

        def work(first: int, last: int) -> None:
            rows = self.dequantize(slice(first, last))
            product[..., first:last] = matmul(rows.view(np.uint8), FORMATS["f32"], vectors)

        run(work, [(first, min(first + step, n_rows)) for first in range(0, n_rows, step)], threads)
        return product

    def __getitem__(self, i: int) -> PayloadTensor:
        if self.ndim < 2:
            raise ShapeError(f"{self.name} has shape {list(self.shape)}: only an axis before the last can be indexed")
        i = index_of(i, self.shape[0], self.name)
        part = object.__new__(PayloadTensor)
        part.__dict__.update(self.__dict__)
        part.shape = self.shape[1:]
        part._first_row = self._first_row + i * math.prod(self.shape[1:-1])
        part._index = (*self._index, i)
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.dequantize().astype(dtype if dtype is not None else np.float32, copy=False)

    def __repr__(self) -> str:
        name = printable(self.name) + "".join(f"[{i}]" for i in self._index)
        return f"<Tensor {name} {list(self.shape)} {self.encoding.name}, {self.nbytes} bytes>"

    @functools.cached_property
    def _payload(self) -> Payload:
        return Payload(_FileBytes(self._file, self.offset, self._stored_nbytes), f"{self._file.path}: {printable(self.name)}")

    @property
    def _readable(self) -> Payload:
        """The payload, in a file that is open and whole still. Raises what `raw` raises."""
        self._file.read(self.offset + self._stored_nbytes - 1, self.offset + self._stored_nbytes)
        return self._payload


class _FileBytes:
    """The bytes of a payload where they lie in the file: what is sliced is read, and nothing else."""

    def __init__(self, file: BlockFile, offset: int, nbytes: int) -> None:
        self.size = nbytes
        self._file = file
        self._offset = offset

    def __getitem__(self, part: slice) -> Bytes:
        start, stop, _ = part.indices(self.size)
        return self._file.read(self._offset + start, self._offset + max(start, stop))


def _decode_into(payload: Payload, first: int, last: int, out: NDArray[Any]) -> None:
    """Rows [first, last) into float32, float16, or the bits of bfloat16 (uint16)."""
    is_double = payload.encoding.is_lossless and payload.source_type.nbytes == 8
    with np.errstate(over="ignore", invalid="ignore"):
        if out.dtype == np.float32 and not is_double:
            payload.decode_rows(first, last, out)
            return
        weights = payload.decode_rows(first, last).astype(np.float32, copy=False)
        if out.dtype == np.uint16:
            encode(weights.reshape(-1), FORMATS["bf16"], out.reshape(-1).view(np.uint8))
        else:
            out[...] = weights
