"""What a tensor of an open model gives: its blocks as they are in the file, decoded rows, products."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow import packed_matmul
from gguflow.arguments import choice, shown
from gguflow.arrays import output_array
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.blocks.families import Encoding
from gguflow.container.header import TensorInfo
from gguflow.container.mapped_file import Bytes
from gguflow.container.reader import GgufFile
from gguflow.errors import Finding, ShapeError, UnsupportedError, UsageError, printable
from gguflow.quantization import SMALLEST_PIECE, Floats, as_floats, decode, encode
from gguflow.threads import pieces, run
from gguflow.threads import resolve as resolve_threads

Rows = int | slice | Sequence[int] | NDArray[np.integer[Any]]
"""Which entries of the first axis: one, a slice, or any of them in any order."""

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
}

STEP = 1 << 20
"""Weights decoded at a time: in smaller steps, waits for the interpreter's lock cost more than is gained."""


class Owner(Protocol):
    """What a tensor needs from its model, which stays open as long as one of its tensors is used."""

    def pickled(self, name: str, index: tuple[int, ...]) -> tuple[Any, ...]:
        """What a tensor, or an entry of it, is pickled as: a function and its arguments.

        name: the name of the tensor.
        index: the indices that lead to the entry; () for the tensor itself.
        """


class Tensor:
    """A tensor in its file. Nothing is read before it is needed, and any number of threads may read.

    `tensor[i]` is entry i of the first axis as a tensor (an expert of a stack, a row of a matrix). A tensor
    is pickled as its path and name, so that worker processes map the file themselves.

    name: its name.
    shape: its dimensions in NumPy order, rows last.
    format: its BlockFormat, or None for a type that this version does not know; such a tensor can be listed
        but not decoded.
    type_id: ggml's number of the type.
    offset: the position of its first byte, from the start of the file.
    path: the file that it is in.
    """

    def __init__(
        self, model: Owner, file: GgufFile, info: TensorInfo, block_format: BlockFormat | None
    ) -> None:
        self.name = info.name
        self.shape = info.shape
        self.format = block_format
        self.type_id = info.type_id
        self.offset = file.header.data_offset + info.offset
        self._model = model
        self._file = file.file
        self._index: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """The file that the tensor is in; one of the shards, if the model has several."""
        return str(self._file.path)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def encoding(self) -> Encoding | None:
        """The encoding of a payload, None for blocks."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes in the file.

        Raises UnsupportedError (C-016) if the format is not known.
        """
        return self._nbytes_of(self.size)

    @property
    def raw(self) -> Bytes:
        """The packed blocks as they are: uint8[..., row_bytes], read-only.

        A view of the mapped file; with io="pread", a copy.

        Raises UnsupportedError (C-016), InvalidError (R-002) if the file was shortened, UsageError if the
        model is closed.
        """
        *leading, n = self.shape or (1,)
        return _shaped(self._packed(0, self.size), (*leading, self._known().row_bytes(n)))

    def numpy(self) -> NDArray[Any]:
        """The weights of an unquantized tensor without a copy, read-only, in their number type and shape.

        BF16 is given as its bits, in uint16.

        Raises UsageError for a quantized tensor, and what `raw` raises.
        """
        block_format = self._known()
        if block_format.is_quantized:
            raise UsageError(
                f"{self.name} is {block_format}: packed blocks have no view as numbers; "
                "dequantize() decodes them"
            )
        return _shaped(
            self._packed(0, self.size).view(block_format.number_type or np.dtype("<u2")), self.shape
        )

    def dequantize(
        self,
        rows: Rows | None = None,
        *,
        out: NDArray[Any] | None = None,
        dtype: str = "float32",
        threads: int | None = None,
    ) -> NDArray[Any]:
        """The weights, or those of some rows, as float32[...].

        float16 and bfloat16 are rounded from float32; bfloat16 is given as its bits, in uint16. Only the
        blocks of the chosen rows are read.

        rows: entries of the first axis: an index (which removes the axis, as in NumPy), a slice, or a
            sequence of indices in any order; None for all.
        out: the array for the result; C-contiguous, of its shape and dtype.
        dtype: "float32", "float16" or "bfloat16".
        threads: the number of threads; None for the default.

        Raises ShapeError (rows of a tensor of one dimension, out), UsageError, which is an IndexError too (no
        such row), and what `raw` raises.
        """
        choice(dtype, "dtype", DTYPES)
        threads = resolve_threads(threads)
        self._known()
        shape, ranges = self._ranges(rows)
        target = output_array(out, shape, DTYPES[dtype])
        flat = target.reshape(-1)
        cut = [
            (first, last, place + first - start)
            for start, stop, place in ranges
            for first, last in self._steps(start, stop)
        ]

        def work(i: int, j: int) -> None:
            for first, last, place in cut[i:j]:
                self._decode(first, last, flat[place : place + last - first])

        run(work, _shared(cut) if threads != 1 else [(0, len(cut))], threads)
        return target

    def matmul(
        self,
        x: ArrayLike,
        *,
        activations: str = "float32",
        threads: int | None = None,
        out: Floats | None = None,
    ) -> Floats:
        """Multiply vectors with the transposed matrix, from its packed blocks: float32[..., rows].

        Otherwise as `gguflow.packed_matmul.matmul`.

        x: the vectors; float32[..., n].
        activations: as in `gguflow.packed_matmul.matmul`.
        threads: the number of threads; None for the default.
        out: the array for the result; float32[..., rows].

        Raises ShapeError if the tensor is not a matrix or n is not its row length, and what `raw` raises.
        """
        self._require_matrix()
        return packed_matmul.matmul(
            self.raw, self._known(), x, activations=activations, threads=threads, out=out
        )

    def __getitem__(self, i: int) -> Tensor:
        if self.ndim < 2:
            raise ShapeError(
                f"{self.name} has shape {list(self.shape)}: only an axis before the last can be indexed"
            )
        i = index_of(i, self.shape[0], self.name)
        part = object.__new__(type(self))  # copy.copy would open the file anew, as pickle does
        part.__dict__.update(self.__dict__)
        part.shape = self.shape[1:]
        part._index = (*self._index, i)
        part._move_by(i * part.size)
        return part

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name} is a scalar")
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """For `np.asarray(tensor)`: the numbers of an unquantized tensor, else the decoded weights."""
        array = self.numpy() if self._is_plain else self.dequantize()
        return array.astype(dtype if dtype is not None else array.dtype, copy=bool(copy))

    def __repr__(self) -> str:
        name = printable(self.name) + "".join(f"[{i}]" for i in self._index)
        return f"<Tensor {name} {list(self.shape)} {self._form}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._model.pickled(self.name, self._index)

    @property
    def _form(self) -> str:
        """Format and size, in words."""
        return f"{self.format}, {self.nbytes} bytes" if self.format else f"unknown type {self.type_id}"

    @property
    def _is_plain(self) -> bool:
        """Whether the numbers lie in the file as NumPy has them."""
        return self.format is not None and self.format.number_type is not None

    def _require_matrix(self) -> None:
        if self.ndim != 2:
            raise ShapeError(
                f"{self.name} has shape {list(self.shape)}: a product needs a matrix; "
                "of a stack, take one: tensor[i]"
            )

    def _move_by(self, n_weights: int) -> None:
        """The tensor begins so many weights later, whole rows."""
        self.offset += self._nbytes_of(n_weights)

    def _steps(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Weights [first, last), cut into what is decoded at a time."""
        yield from (
            (first + a, first + b)
            for a, b in pieces(last - first, last - first, self._known().block_size, STEP)
        )

    def _decode(self, first: int, last: int, out: NDArray[Any]) -> None:
        """Decode the weights of a step into flat float32, float16, or the bits of bfloat16 (uint16)."""
        block_format, packed = self._known(), self._packed(first, last)
        number_type = block_format.number_type
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # beyond the range of a type: infinity; a signalling NaN is one like others
            if number_type is not None and (number_type.kind == "i" or number_type.itemsize == 8):
                put(packed.view(number_type).astype(np.float32), out)
            elif out.dtype == np.float32:
                decode(packed, block_format, out)
            else:
                put(as_floats(packed, block_format), out)

    def _known(self) -> BlockFormat:
        if self.format is None:
            finding = Finding(
                "C-016",
                f"tensor {printable(self.name)} has a type that this version does not know",
                found=self.type_id,
            )
            raise UnsupportedError(self._file.path, finding)
        return self.format

    def _nbytes_of(self, n_weights: int) -> int:
        return self._known().nbytes(n_weights)

    def _packed(self, first: int, last: int) -> Bytes:
        """The blocks of weights [first, last) of the flattened tensor, which are whole blocks of it."""
        return self._file.read(self.offset + self._nbytes_of(first), self.offset + self._nbytes_of(last))

    def _ranges(self, rows: Rows | None) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
        """The shape of the result, and its runs of weights: first, last, place in the flattened result."""
        if rows is None:
            return self.shape, [(0, self.size, 0)]
        if self.ndim < 2:
            raise ShapeError(f"{self.name} has shape {list(self.shape)}: it has no rows to choose from")
        n, width = self.shape[0], math.prod(self.shape[1:])
        if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
            i = index_of(int(rows), n, self.name)
            return self.shape[1:], [(i * width, (i + 1) * width, 0)]
        if isinstance(rows, slice):
            span = _span(rows, n)
            chosen: Sequence[int] = span
            if span.step == 1:
                whole = (span.start * width, (span.start + len(span)) * width, 0)
                return (len(span), *self.shape[1:]), [whole]
        else:
            indices = np.asarray(rows)
            if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
                raise ShapeError(
                    "rows is an index, a slice or a sequence of integers, "
                    f"not {indices.dtype.name}{list(indices.shape)}"
                )
            chosen = [index_of(int(i), n, self.name) for i in indices]
        return (len(chosen), *self.shape[1:]), [
            (i * width, (i + 1) * width, place * width) for place, i in enumerate(chosen)
        ]


def matmul(
    matrix: Tensor | Bytes,
    x: ArrayLike,
    *,
    format: str | BlockFormat | None = None,
    activations: str = "float32",
    threads: int | None = None,
    out: Floats | None = None,
) -> Floats:
    """Multiply vectors with a packed matrix, without a decoded copy of the matrix: float32[..., rows].

    See `gguflow.packed_matmul.matmul` for the rest.

    matrix: a tensor of an open model, or packed rows; uint8[rows, row_bytes].
    x: the vectors; float32[..., n].
    format: the format of packed rows; not used for a tensor.
    activations: as in `gguflow.packed_matmul.matmul`.
    threads: the number of threads; None for the default.
    out: the array for the result; float32[..., rows].
    """
    if isinstance(matrix, Tensor):
        return matrix.matmul(x, activations=activations, threads=threads, out=out)
    if format is None:
        raise UsageError("packed rows need their format: matmul(rows, x, format=...)")
    return packed_matmul.matmul(matrix, format, x, activations=activations, threads=threads, out=out)


def _shared(steps: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Steps [i, j) that a thread does at a time, of SMALLEST_PIECE weights or more."""
    shares, start, n_weights = [], 0, 0
    for i, (first, last, _) in enumerate(steps):
        n_weights += last - first
        if n_weights >= SMALLEST_PIECE or i + 1 == len(steps):
            shares.append((start, i + 1))
            start, n_weights = i + 1, 0
    return shares


def _shaped(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A view of the same size in another shape.

    Raises ShapeError if NumPy has no such shape: an empty tensor may have huge dimensions.
    """
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise ShapeError(f"{list(shape)} is more than an array can be: {error}") from error


class _NoSuchRow(UsageError, IndexError):
    """An index beyond the first axis."""


def index_of(i: int, n: int, name: str) -> int:
    """The index from 0 of entry `i`, which may be counted from the end. Raises UsageError, which is an
    IndexError here too.
    """
    if not -n <= i < n:
        raise _NoSuchRow(f"{printable(name)} has {n} entries on its first axis; asked for {shown(i)}")
    return i % n


def _span(rows: slice, n: int) -> range:
    """The entries of n that a slice names. Raises ShapeError."""
    try:
        return range(n)[rows]
    except (TypeError, ValueError) as error:
        parts = ", ".join(shown(part) for part in (rows.start, rows.stop, rows.step))
        raise ShapeError(
            f"a slice of rows has integers or None, and a step that is not 0, not ({parts})"
        ) from error


def put(weights: Floats, out: NDArray[Any]) -> None:
    """Convert flat float32 weights.

    weights: the weights; flat float32.
    out: the array for the result; flat float32, float16, or uint16 for the bits of bfloat16.
    """
    if out.dtype == np.float32:
        out[...] = weights
    else:
        encode(weights, FORMATS["f16" if out.dtype == np.float16 else "bf16"], out.view(np.uint8))
