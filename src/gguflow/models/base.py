"""What a model is to the rest of the package: GGUF metadata, and tensors under GGUF names that say where their rows come from.

spec/models.md has the rules that a checkpoint must keep to be understood (M-002 to M-030), each with the verdict on one that breaks it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata
from gguflow.sources.base import SourceTensor


@dataclass(frozen=True)
class RopeOrder:
    """The order in which GGUF keeps the rows of Llama's query and key projections, and of their biases.

    Checkpoints rotate halves of a head (row j with row j + d/2), llama.cpp's "norm" rope rotates neighbours (2j with 2j + 1): output row
    2j + k of a head is source row k * d/2 + j.
    """

    n_heads: int

    def source_rows(self, first: int, last: int, n_rows: int) -> NDArray[np.int64]:
        """The source row of each output row in [first, last), of n_rows in all."""
        head_dim = n_rows // self.n_heads
        row = np.arange(first, last, dtype=np.int64)
        head, within = np.divmod(row, head_dim)
        pair, half = np.divmod(within, 2)
        source: NDArray[np.int64] = head * head_dim + half * (head_dim // 2) + pair
        return source


@dataclass(frozen=True)
class ModelTensor:
    """An output tensor: its GGUF name and shape (NumPy order), and either the source tensor that it comes from or the values themselves.

    row_order: how the source's rows are arranged in the output, None for as they are.
    """

    name: str
    shape: tuple[int, ...]
    source: SourceTensor | None = None
    values: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    row_order: RopeOrder | None = None

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Model:
    """A checkpoint understood.

    architecture: GGUF's name of it ("llama"). metadata: every key but those that depend on the recipe (general.file_type,
    general.quantization_version). n_layers, n_heads, n_kv_heads, n_experts: what recipes ask for; 0 where unknown.
    is_final: whether the tensors are those of a GGUF file already, so that one that is not quantized stays as it is.
    file_stem: the default output name without type and suffix, by llama.cpp's naming convention; may hold "{type}".
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
