"""What a model is to the rest of the package: GGUF metadata, and tensors under GGUF names that say where
their rows come from.

spec/models.md has the rules that a checkpoint must keep to be understood (M-002 to M-030), each with the
verdict on one that breaks it.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata
from gguflow.sources.base import SourceTensor


@dataclass(frozen=True)
class RopeOrder:
    """The order in which GGUF keeps the rows of Llama's query and key projections, and of their biases.

    Checkpoints rotate halves of a head (row j with row j + d/2), llama.cpp's "norm" rope rotates neighbours
    (2j with 2j + 1): output row
    2j + k of a head is source row k * d/2 + j. is_inverse: the way back, from GGUF's order to the
    checkpoint's.
    """

    n_heads: int
    is_inverse: bool = False

    def source_rows(self, first: int, last: int, n_rows: int) -> NDArray[np.int64]:
        """The source row of each output row in [first, last), of n_rows in all."""
        head_dim = n_rows // self.n_heads
        row = np.arange(first, last, dtype=np.int64)
        head, within = np.divmod(row, head_dim)
        if self.is_inverse:
            half, pair = np.divmod(within, head_dim // 2)
            inverse: NDArray[np.int64] = head * head_dim + 2 * pair + half
            return inverse
        pair, half = np.divmod(within, 2)
        source: NDArray[np.int64] = head * head_dim + half * (head_dim // 2) + pair
        return source


@dataclass(frozen=True)
class ModelTensor:
    """An output tensor: its GGUF name and shape (NumPy order), and either the source tensors that it comes
    from or the values themselves.

    sources: one for most tensors. Several follow each other along the leading axis: the experts of a layer,
    stacked. All have one format. values: float32, or flat uint8 for bytes that are written as they are.
    row_order: how the rows of the one source are arranged in the output, None for as they are.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[SourceTensor, ...] = ()
    values: NDArray[Any] | None = field(default=None, repr=False, compare=False)
    row_order: RopeOrder | None = None

    @property
    def source(self) -> SourceTensor | None:
        """The first of the sources: what all of them have in common, the format, is known from it."""
        return self.sources[0] if self.sources else None

    def parts(self, first: int, last: int) -> Iterator[tuple[SourceTensor, int, int]]:
        """Weights [first, last) as pieces of the sources: each with a range of its own weights. For tensors
        without a row order.
        """
        i = bisect_right(self._ends, first)
        while first < last:
            source, end = self.sources[i], self._ends[i]
            start, stop = end - source.n_weights, min(last, end)
            if first < stop:
                yield source, first - start, stop - start
            first, i = stop, i + 1

    @cached_property
    def _ends(self) -> list[int]:
        """Where each source ends, in weights of this tensor."""
        return list(itertools.accumulate(source.n_weights for source in self.sources))

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)


class Sizes(NamedTuple):
    """What recipes and the way back to a checkpoint ask of a model: GGUF's name of its architecture, and
    numbers that are 0 where unknown.
    """

    architecture: str
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0


@dataclass(frozen=True)
class Model:
    """A checkpoint understood.

    architecture: GGUF's name of it ("llama"). metadata: every key but those that depend on the recipe
    (general.file_type, general.quantization_version). n_layers, n_heads, n_kv_heads, n_experts: what recipes
    ask for; 0 where unknown.
    is_final: whether the tensors are those of a GGUF file already, so that one that is not quantized stays as
    it is.
    file_stem: the default output name without type and suffix, by llama.cpp's naming convention; may hold
    "{type}".
    """

    architecture: str
    metadata: Metadata
    tensors: tuple[ModelTensor, ...]
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0
    is_final: bool = False
    file_stem: str = "model-{type}"

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.architecture, self.n_layers, self.n_heads, self.n_kv_heads, self.n_experts)
