"""Views: what a tensor of the output is made of, before anything is read.

A checkpoint's tensors are `Leaf`s; every other view rearranges, joins or computes from views. A view knows
its shape and the number format of what it gives, and reads any range of its weights, so that a conversion
streams: rows are moved without being decoded, and only `Transpose` and `Fold` look at more than the rows that
are asked for.

A row is what one index of all axes but the last selects; of a vector, each weight is a row.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Bytes
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.errors import Finding, InvalidError
from gguflow.quantization import decode
from gguflow.sources.base import SourceTensor, json_path

Shape = tuple[int, ...]
Numbers = NDArray[Any]
"""An array of float32, or of float16 where the source is F16."""

Index = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""For each row (or column) of the output, the row (or column) of the source; int64[n] to int64[n]."""


_STRIPE = 32
"""Rows of a matrix that are transposed at a time."""


class Reader(Protocol):
    """What reads sources, as `gguflow.sources.TensorReader` does."""

    def read(self, tensor: SourceTensor, first: int, last: int) -> Bytes:
        """The packed weights [first, last) of the flattened tensor."""

    def read_rows(self, tensor: SourceTensor, rows: NDArray[np.int64]) -> Bytes:
        """Entries of the first axis in the given order: uint8[n, bytes]."""


class View:
    """A lazy tensor.

    shape: in NumPy order.
    format: of the bytes that it gives: a number format, or the block format of its source.
    """

    shape: Shape
    format: BlockFormat

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        """The packed weights [first, last), flat.

        reader: of the sources.
        first: the first weight, which must begin a block of the format.
        last: the weight after the last one, which must end a block.

        Raises what the reader raises.
        """
        raise NotImplementedError

    def children(self) -> Sequence[View]:
        """The views that it is made of."""
        return ()

    def take(self, reader: Reader, rows: NDArray[np.int64]) -> Bytes:
        """Rows in the given order: uint8[n, row bytes].

        reader: of the sources.
        rows: their numbers, int64[n].

        Raises what the reader raises.
        """
        parts = [self.read(reader, a * self.row, b * self.row) for a, b in runs(rows)]
        return joined(parts).reshape(len(rows), self.format.nbytes(self.row))

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Number of weights in a row."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else math.prod(self.shape)

    @cached_property
    def sources(self) -> tuple[SourceTensor, ...]:
        """The tensors that are read, each once, in order."""
        found: dict[int, SourceTensor] = {}
        waiting: list[View] = [self]
        while waiting:
            view = waiting.pop()
            if isinstance(view, Leaf):
                found.setdefault(id(view.source), view.source)
            waiting += reversed(view.children())
        return tuple(found.values())


def runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of adjacent rows, in order.

    rows: their numbers, int64[n].
    """
    if not rows.size:
        return
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for start, stop in itertools.pairwise([0, *breaks.tolist(), len(rows)]):
        yield int(rows[start]), int(rows[stop - 1]) + 1


def joined(parts: Sequence[Bytes]) -> Bytes:
    """One array of several, without a copy of a single one."""
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.uint8)])


@dataclass(frozen=True, eq=False)
class Leaf(View):
    """A tensor of the checkpoint, as it is."""

    source: SourceTensor

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return self.source.shape

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return self.source.require_format()

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        return reader.read(self.source, first, last)

    def take(self, reader: Reader, rows: NDArray[np.int64]) -> Bytes:
        if len(self.shape) <= 2:
            return reader.read_rows(self.source, rows)
        flat = replace(self.source, shape=(self.n_rows, self.row))
        return reader.read_rows(flat, rows)


@dataclass(frozen=True, eq=False)
class Rows(View):
    """Rows of another view, chosen and ordered by an index function.

    view: where rows come from.
    shape: of the result; its rows are as long as the view's.
    index: for each row of the result, the row of the view.
    """

    view: View
    shape: Shape
    index: Index

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return self.view.format

    @property
    def row(self) -> int:
        return self.view.row

    @property
    def n_rows(self) -> int:
        return self.n_weights // self.row if self.row else 0

    def children(self) -> Sequence[View]:
        return (self.view,)

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        first_row, last_row = first // self.row, -(-last // self.row)
        rows = self.view.take(reader, self.index(np.arange(first_row, last_row, dtype=np.int64)))
        start, stop = (self.format.nbytes(weight - first_row * self.row) for weight in (first, last))
        return rows.reshape(-1)[start:stop]

    def take(self, reader: Reader, rows: NDArray[np.int64]) -> Bytes:
        return self.view.take(reader, self.index(rows))


@dataclass(frozen=True, eq=False)
class Concat(View):
    """Views of one format one after the other: rows joined, or equal tensors stacked.

    views: the parts.
    shape: of the result.
    """

    views: tuple[View, ...]
    shape: Shape

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return self.views[0].format

    def children(self) -> Sequence[View]:
        return self.views

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(view.n_weights for view in self.views))

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        parts = []
        i = bisect_right(self._ends, first)
        while first < last:
            view, end = self.views[i], self._ends[i]
            start = end - view.n_weights
            stop = min(last, end)
            if first < stop:
                parts.append(view.read(reader, first - start, stop - start))
            first, i = stop, i + 1
        return joined(parts)


@dataclass(frozen=True, eq=False)
class Reshape(View):
    """The same weights in the same order in another shape."""

    view: View
    shape: Shape

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return self.view.format

    def children(self) -> Sequence[View]:
        return (self.view,)

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        return self.view.read(reader, first, last)


@dataclass(frozen=True, eq=False)
class Columns(View):
    """Columns of another view, chosen and ordered: each row is read whole, then gathered.

    view: of numbers.
    shape: of the result; all axes but the last are the view's.
    columns: for each column of the result, the column of the view, int64[shape[-1]].
    """

    view: View
    shape: Shape
    columns: NDArray[np.int64]

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return number_format(self.view)

    def children(self) -> Sequence[View]:
        return (self.view,)

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        first_row, last_row = first // self.row, -(-last // self.row)
        numbers = items(self.view, reader, first_row * self.view.row, last_row * self.view.row)
        gathered = numbers.reshape(last_row - first_row, self.view.row)[:, self.columns].reshape(-1)
        return gathered[first - first_row * self.row : last - first_row * self.row].view(np.uint8)


@dataclass(frozen=True, eq=False)
class Transpose(View):
    """Another view with its last two axes exchanged: matrix by matrix, each held whole while it is read.

    view: of numbers, with two or more axes.
    """

    view: View

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        *rest, a, b = self.view.shape
        return (*rest, b, a)

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return number_format(self.view)

    def children(self) -> Sequence[View]:
        return (self.view,)

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        rows, width = self.shape[-2:]  # of an output matrix
        first_row, last_row = first // width, -(-last // width)
        parts = [np.empty(0, f"<u{self.format.type_size}")]
        row = first_row
        while row < last_row:
            matrix, within = divmod(row, rows)
            stop = min(rows, within + last_row - row)
            start = matrix * rows * width
            numbers = items(self.view, reader, start, start + rows * width).reshape(width, rows)
            parts.append(_turned(numbers[:, within:stop]).reshape(-1).view(parts[0].dtype))
            row += stop - within
        flat = parts[1] if len(parts) == 2 else np.concatenate(parts)
        return flat[first - first_row * width : last - first_row * width].view(np.uint8)


def _turned(matrix: NDArray[Any]) -> NDArray[Any]:
    """A matrix transposed, in stripes that stay in the cache."""
    rows, columns = matrix.shape
    out = np.empty((columns, rows), matrix.dtype)
    for first in range(0, rows, _STRIPE):
        out[:, first : first + _STRIPE] = matrix[first : first + _STRIPE].T
    return out


@dataclass(frozen=True, eq=False)
class Map(View):
    """A function of each weight, in the arithmetic of the source: F16 in steps of float16, all else float32.

    view: its argument.
    function: (numbers, number of the first of them) -> numbers of the same type.
    """

    view: View
    function: Callable[[Numbers, int], Numbers]

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return self.view.shape

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return FORMATS["f16" if self.view.format.key == "f16" else "f32"]

    def children(self) -> Sequence[View]:
        return (self.view,)

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        result = self.function(numbers_of(self.view, reader, first, last), first)
        return np.ascontiguousarray(result).view(np.uint8)


@dataclass(frozen=True, eq=False)
class Fold(View):
    """A function of whole tensors, computed once and held: for small ones.

    views: its arguments.
    shape: of the result.
    format: of the result, F32 or F16.
    function: arrays in their shapes, float32 or float16 -> the array, of the type that `format` says.
    """

    views: tuple[View, ...]
    shape: Shape
    format: BlockFormat
    function: Callable[..., Numbers]
    _result: list[Bytes] = field(default_factory=list, repr=False)

    def children(self) -> Sequence[View]:
        return self.views

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        if not self._result:
            arrays = (numbers_of(v, reader, 0, v.n_weights).reshape(v.shape) for v in self.views)
            result = np.ascontiguousarray(self.function(*arrays)).reshape(-1)
            self._result.append(result.view(np.uint8))
        return self._result[0][self.format.nbytes(first) : self.format.nbytes(last)]


@dataclass(frozen=True, eq=False)
class Constant(View):
    """One number everywhere: padding, or what a model has and its checkpoint leaves out.

    shape: of the tensor.
    format: F32, F16 or BF16, of which only zero can be had.
    value: the number.
    """

    shape: Shape
    format: BlockFormat
    value: float = 0.0

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        if not self.value:
            return np.zeros(self.format.nbytes(last - first), np.uint8)
        return np.full(last - first, self.value, self.format.number_type).view(np.uint8)


def number_format(view: View) -> BlockFormat:
    """The format of a view's numbers one by one: its own if it is no block format, else F32."""
    return view.format if view.format.number_type is not None or view.format.key == "bf16" else FORMATS["f32"]


def items(view: View, reader: Reader, first: int, last: int) -> NDArray[Any]:
    """Weights [first, last) as items of `number_format(view)` that can be moved one by one."""
    chosen = number_format(view)
    packed = view.read(reader, first, last)
    if chosen is view.format:
        return np.ascontiguousarray(packed).view(f"<u{chosen.type_size}")
    numbers = np.empty(last - first, np.float32)
    decode(packed, view.format, numbers)
    return numbers


def numbers_of(view: View, reader: Reader, first: int, last: int) -> Numbers:
    """Weights [first, last) as float16 where they are F16, else as float32."""
    packed = view.read(reader, first, last)
    if view.format.key == "f16":
        return np.ascontiguousarray(packed).view("<f2")
    kind = view.format.number_type
    if kind is not None and view.format.key != "bf16":
        return np.ascontiguousarray(packed).view(kind).astype(np.float32)
    numbers = np.empty(last - first, np.float32)
    decode(packed, view.format, numbers)
    return numbers


def stacked(views: Sequence[View], shape: Shape) -> View:
    """Views one after the other in a given shape; of one view, a new shape.

    Raises InvalidError (M-015) if their formats differ.
    """
    first = views[0]
    if len(views) == 1:
        return first if first.shape == shape else Reshape(first, shape)
    for view in views:
        if view.format is not first.format:
            source = view.sources[0]
            message = "what becomes one tensor has different dtypes"
            raise InvalidError(
                source.file.path,
                Finding(
                    "M-015",
                    message,
                    json_path(source.name),
                    found=view.format.name,
                    expected=first.format.name,
                ),
            )
    return Concat(tuple(views), shape)


def part_of(view: View, start: int, stop: int, shape: Shape) -> View:
    """Rows [start, stop) of a view, in a given shape.

    Of a tensor in a file this is a tensor of its own: a smaller range of the file.
    """
    if isinstance(view, Leaf):
        source, offset = view.source, start * view.row
        if source.stored is not None:
            whole_digest = source.proof if start == 0 else None
            stored = source.stored.beginning_at(offset)
            return Leaf(replace(source, shape=shape, stored=stored, proof=whole_digest))
        if offset % source.require_format().block_size == 0:
            at = source.offset + source.require_format().nbytes(offset)
            return Leaf(replace(source, shape=shape, offset=at, proof=None))
    return Rows(view, shape, lambda rows: rows + start)


def over_items(
    view: View, source: Callable[[SourceTensor], SourceTensor], shape: Callable[[Shape], Shape]
) -> View | None:
    """The same movement of rows for parts of the weights, such as codes; None if it does more than that.

    view: of weights.
    source: for each source of weights, the one of parts.
    shape: for each shape, the one with rows of parts.
    """
    if isinstance(view, Leaf):
        return Leaf(source(view.source))
    inner = [over_items(child, source, shape) for child in view.children()]
    children = [child for child in inner if child is not None]
    if len(children) < len(inner) or not children:
        return None
    if isinstance(view, Rows):
        return Rows(children[0], shape(view.shape), view.index)
    if isinstance(view, Concat):
        return Concat(tuple(children), shape(view.shape))
    if isinstance(view, Reshape) and view.shape[-1:] == view.view.shape[-1:]:
        return Reshape(children[0], shape(view.shape))
    return None
