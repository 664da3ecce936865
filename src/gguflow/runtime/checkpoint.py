"""An open model as its checkpoint had it: tensors under the names that transformers gives them, rows in their
first order, experts one by one.

Nothing is copied for that: decoded rows are picked in the checkpoint's order, and of a product the outputs
are rearranged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow import models
from gguflow.arrays import output_array
from gguflow.blocks import BlockFormat
from gguflow.models.base import RopeOrder
from gguflow.models.hf_names import originals
from gguflow.models.passthrough import sizes_of
from gguflow.quantization import Floats
from gguflow.runtime.model import Model
from gguflow.runtime.tensor import Rows, Tensor


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of an open model that stands for one of the checkpoint; it reads and pickles like a `Tensor`.

    name: its name in the checkpoint.
    stored: the tensor in the file.
    row_order: how its rows are arranged in the checkpoint, None if as they are stored.
    """

    name: str
    stored: Tensor
    row_order: RopeOrder | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def format(self) -> BlockFormat | None:
        return self.stored.format

    @property
    def nbytes(self) -> int:
        """Bytes in the file.

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
        if self.row_order is None:
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
            head = n // self.row_order.n_heads
            start, stop = first // head * head, -(-max(first, last) // head) * head
            heads = self.stored.dequantize(slice(start, stop), dtype=dtype, threads=threads)
            weights = self._reorder(heads, start)[first - start : max(first, last) - start]
        else:
            return self.stored.dequantize(self._stored_rows()[rows], out=out, dtype=dtype, threads=threads)
        result = output_array(out, weights.shape, weights.dtype)
        result[...] = weights
        return result

    def matmul(self, x: ArrayLike, *, activations: str = "float32", threads: int = 1) -> Floats:
        """Multiply vectors with the transposed matrix, outputs in the checkpoint's order: float32[..., rows].

        Otherwise as `Tensor.matmul`.

        x: the vectors; float32[..., n].
        activations: as in `gguflow.packed_matmul.matmul`.
        threads: the number of threads.
        """
        product = self.stored.matmul(x, activations=activations, threads=threads)
        return product if self.row_order is None else np.take(product, self._stored_rows(), axis=-1)

    def _stored_rows(self, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
        """For rows [first, last) of the checkpoint, the stored ones."""
        last = self.shape[0] if last is None else last
        return (
            np.arange(first, last)
            if self.row_order is None
            else self.row_order.source_rows(first, last, self.shape[0])
        )

    def _reorder(self, weights: NDArray[Any], first: int) -> NDArray[Any]:
        """The same memory, with the rows of whole heads in the checkpoint's order.

        weights: stored rows.
        first: the first of these rows.
        """
        head = self.shape[0] // self.row_order.n_heads if self.row_order else self.shape[0]
        for at in range(0, len(weights), head):
            weights[at : at + head] = weights[self._stored_rows(first + at, first + at + head) - first]
        return weights


def checkpoint_tensors(model: Model) -> dict[str, CheckpointTensor]:
    """The tensors of an open model by their names in transformers, in the order of the file.

    Computed tensors (rope frequencies) are left out. Tensors that the architecture does not know keep their
    names; if the architecture itself is not known, all do.

    model: the open model.

    Raises InvalidError if rows of Q and K cannot be put in order (M-002, M-003).
    """
    sizes = sizes_of(model.metadata.typed)
    shapes = {name: tensor.shape for name, tensor in model.items()}
    return {
        found.name: CheckpointTensor(
            found.name,
            model[found.gguf_name] if found.expert is None else model[found.gguf_name][found.expert],
            row_order=found.row_order,
        )
        for found in originals(sizes, models.by_name(sizes.architecture), shapes, Path(model.path))
    }
