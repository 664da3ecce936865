"""What a model is to the rest of the package: GGUF metadata, and tensors under GGUF names that say where their rows come from.

The rules that a checkpoint must keep to be understood, each with the error that breaks it raises:

    M-002  InvalidError      a key that is needed is in the JSON file
    M-003  InvalidError      a value has the type and the range that its key needs, and agrees with the others
    M-004  UnsupportedError  config.json names a family of models that is known
    M-005  UnsupportedError  rotary embeddings are scaled in a way that is known
    M-006  UnsupportedError  embeddings are pooled in a way that is known
    M-007  UnsupportedError  the weights are plain numbers, not quantized in another way
    M-008  UnsupportedError  a Qwen3 model is no reranker, which llama.cpp wants as a classifier
    M-010  InvalidError      every tensor that the family needs is there
    M-011  InvalidError      every tensor is one that the family has, or that is known to be left out
    M-012  InvalidError      a tensor has the shape that the hyper-parameters give it
    M-013  InvalidError      no two tensors get the same name
    M-014  InvalidError      a tensor's name is Unicode text of 63 bytes at most
    M-020  InvalidError      the model card's front matter can be read
    M-021  MalformedError    a file beside the weights is what its name says: a JSON object, UTF-8 text, a SentencePiece model
    M-022  LimitError        a file beside the weights is not larger than it may be
    M-023  InvalidError      the tokenizer's file is there
    M-024  UnsupportedError  the tokenizer is of a kind that llama.cpp has, its pre-tokenizer too
    M-025  InvalidError      every token id is below the size of the vocabulary, and none is there twice
    M-030  InvalidError      every metadata value fits its type
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
    file_stem: the default output name without type and suffix, by llama.cpp's naming convention; may hold "{type}".
    """

    architecture: str
    metadata: Metadata
    tensors: tuple[ModelTensor, ...]
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0
    file_stem: str = "model-{type}"
