"""An open model as its checkpoint had it: tensors under the names that transformers gives them, rows in their
first order, experts one by one.

Nothing is copied for that: decoded rows are picked in the checkpoint's order, and of a product the outputs
are rearranged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow import models
from gguflow.arguments import choice
from gguflow.arrays import Bytes, output_array
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.models.hf_names import originals
from gguflow.models.orders import Order, RopeOrder
from gguflow.models.views import Leaf, Shape, View, numbers_of
from gguflow.quantization import Floats
from gguflow.runtime.model import Model
from gguflow.runtime.tensor import DTYPES, Rows, Tensor, put


@dataclass(frozen=True)
class _Decoded:
    """A tensor of an open model in the place of one of a checkpoint's file, for views: float32."""

    tensor: Tensor

    @property
    def shape(self) -> Shape:
        return self.tensor.shape

    def require_format(self) -> BlockFormat:
        """F32: rows are decoded as they are read."""
        return FORMATS["f32"]


class _Decoder:
    """Reads `_Decoded` tensors for views."""

    def read(self, tensor: Any, first: int, last: int) -> Bytes:
        """Weights [first, last) as float32 bytes.

        tensor: a `_Decoded`.
        first: the first weight of the flattened tensor.
        last: the end of the range, exclusive.
        """
        stored = tensor.tensor
        per = math.prod(stored.shape[1:])  # of an entry of the first axis
        start, stop = first // per, -(-last // per)
        weights = stored.dequantize(slice(start, stop)).reshape(-1)
        return np.ascontiguousarray(weights[first - start * per : last - start * per]).view(np.uint8)

    def read_rows(self, tensor: Any, rows: NDArray[np.int64]) -> Bytes:
        """Rows in the given order, each as float32 bytes.

        tensor: a `_Decoded`.
        rows: entries of the first axis, int64[n].
        """
        weights = tensor.tensor.dequantize(rows)
        return np.ascontiguousarray(weights).reshape(len(rows), -1).view(np.uint8)


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of an open model that stands for one of the checkpoint; it reads and pickles like a `Tensor`.

    name: its name in the checkpoint.
    stored: the tensor in the file, the first of several.
    order: for each of its rows, the stored row; None if they are as they are stored.
    built: what it is made of where it is not one tensor with its rows rearranged; else None.
    """

    name: str
    stored: Tensor
    order: Order | None = None
    built: View | None = None

    @property
    def is_as_stored(self) -> bool:
        """Whether the file has its weights as they are, in their order."""
        return self.order is None and self.built is None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape if self.built is None else self.built.shape

    @property
    def format(self) -> BlockFormat | None:
        return self.stored.format

    @property
    def nbytes(self) -> int:
        """Bytes in the file, of all of the first tensor that it is made of.

        Raises UnsupportedError (C-016) if the format is not known.
        """
        return self.stored.nbytes

    def dequantize(
        self,
        rows: Rows | None = None,
        *,
        out: NDArray[Any] | None = None,
        dtype: str = "float32",
        threads: int = 1,
    ) -> NDArray[Any]:
        """The weights, or some rows of them, in the checkpoint's order; otherwise as `Tensor.dequantize`.

        rows: entries of the first axis in the checkpoint's order; None for all.
        out: the array for the result; C-contiguous, of its shape and dtype.
        dtype: "float32", "float16" or "bfloat16".
        threads: the number of threads.
        """
        if self.built is not None:
            return self._evaluated(self.built, rows, out, dtype)
        if self.order is None:
            return self.stored.dequantize(rows, out=out, dtype=dtype, threads=threads)
        n = self.shape[0]
        if rows is None:
            return self._reorder(self.stored.dequantize(out=out, dtype=dtype, threads=threads), 0)
        if len(self.shape) == 1:
            weights = self.stored.dequantize(dtype=dtype)[self._stored_rows()[rows]]
        elif isinstance(rows, slice) and rows.step in (
            None,
            1,
        ):  # rows change places inside a head only: whole heads hold all that are wanted
            first, last, _ = rows.indices(n)
            head = self._head
            start, stop = first // head * head, min(-(-max(first, last) // head) * head, n)
            heads = self.stored.dequantize(slice(start, stop), dtype=dtype, threads=threads)
            weights = self._reorder(heads, start)[first - start : max(first, last) - start]
        else:
            return self.stored.dequantize(self._stored_rows()[rows], out=out, dtype=dtype, threads=threads)
        result = output_array(out, weights.shape, weights.dtype)
        result[...] = weights
        return result

    def matmul(self, x: ArrayLike, *, activations: str = "float32", threads: int = 1) -> Floats:
        """Multiply vectors with the transposed matrix, outputs in the checkpoint's order: float32[..., rows].

        Otherwise as `Tensor.matmul`; a tensor that is made of several is decoded for it.

        x: the vectors; float32[..., n].
        activations: as in `gguflow.packed_matmul.matmul`.
        threads: the number of threads.
        """
        if self.built is not None:
            weights = self.dequantize(threads=threads)
            decoded: Floats = np.asarray(x, np.float32) @ weights.T
            return decoded
        product = self.stored.matmul(x, activations=activations, threads=threads)
        return product if self.order is None else np.take(product, self._stored_rows(), axis=-1)

    def _evaluated(self, view: View, rows: Rows | None, out: NDArray[Any] | None, dtype: str) -> NDArray[Any]:
        weights = numbers_of(view, _Decoder(), 0, view.n_weights).reshape(view.shape)
        wanted = np.ascontiguousarray(weights if rows is None else weights[rows], np.float32)
        result = output_array(out, wanted.shape, DTYPES[choice(dtype, "dtype", DTYPES)])
        put(wanted.reshape(-1), result.reshape(-1))
        return result

    def _stored_rows(self, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
        """For rows [first, last) of the checkpoint, the stored ones."""
        rows = np.arange(first, self.shape[0] if last is None else last)
        return rows if self.order is None else self.order(rows)

    @property
    def _head(self) -> int:
        """Number of rows among which rows change places."""
        return self.order.head_dim if isinstance(self.order, RopeOrder) else self.shape[0]

    def _reorder(self, weights: NDArray[Any], first: int) -> NDArray[Any]:
        """The same memory, with the rows of whole heads in the checkpoint's order.

        weights: stored rows.
        first: the first of these rows.
        """
        head = self._head
        for at in range(0, len(weights), head):
            weights[at : at + head] = weights[self._stored_rows(first + at, first + at + head) - first]
        return weights


def checkpoint_tensors(model: Model) -> dict[str, CheckpointTensor]:
    """The tensors of an open model by their names in transformers, in the order of the file.

    Computed tensors (rope frequencies) are left out. Tensors that the architecture does not know keep their
    names; if the architecture itself is not known, all do.

    model: the open model.

    Raises InvalidError if hyper-parameters that the order of rows needs are missing or wrong (M-002, M-003,
    M-012).
    """
    metadata = model.metadata.typed
    family = models.of_file(metadata)
    shapes = {name: tensor.shape for name, tensor in model.items()}
    tensors = {}
    for found in originals(metadata, family, shapes, Path(model.path)):
        stored = model[found.gguf_names[0]]
        if found.expert is not None:
            tensors[found.name] = CheckpointTensor(found.name, stored[found.expert])
        elif found.is_same or found.order is not None:
            tensors[found.name] = CheckpointTensor(found.name, stored, found.order)
        else:
            leaves: list[Any] = [_Decoded(model[name]) for name in found.gguf_names]
            built = found.build([Leaf(leaf) for leaf in leaves])
            tensors[found.name] = CheckpointTensor(found.name, stored, built=built)
    return tensors
