"""The tensors of a decoder by role. Matrices stay packed in the map; only norms and biases are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gguflow.arrays import Floats
from gguflow.inference.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from gguflow.runtime import Model, Tensor


@dataclass(frozen=True)
class MatmulOptions:
    """How products with packed matrices are computed.

    activations: "float32", or "int8" as in llama.cpp.
    threads: number of threads for each product.
    """

    activations: str = "float32"
    threads: int | None = None


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b: float32[..., n] -> float32[..., rows]."""

    weight: Tensor
    bias: Floats | None
    products: MatmulOptions

    def __call__(self, x: Floats) -> Floats:
        y = self.weight.matmul(x, activations=self.products.activations, threads=self.products.threads)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class Layer:
    """One block.

    query_norm, key_norm: float32[head_dim] for Qwen3; otherwise None.
    """

    attention_norm: Floats
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    query_norm: Floats | None
    key_norm: Floats | None
    ffn_norm: Floats
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True)
class Weights:
    """The tensors of a decoder.

    output: the output matrix; the embedding matrix if the file has none (tied embeddings).
    """

    embedding: Tensor
    layers: tuple[Layer, ...]
    output_norm: Floats
    output: Linear

    @classmethod
    def of(cls, model: Model, sizes: Hyperparameters, products: MatmulOptions) -> Weights:
        """The tensors of an open model, whose names and shapes have been checked."""

        def floats(name: str) -> Floats | None:
            return model[name].dequantize().reshape(-1) if name in model else None

        def norm(name: str) -> Floats:
            return model[name].dequantize().reshape(-1)

        def linear(name: str) -> Linear:
            return Linear(model[f"{name}.weight"], floats(f"{name}.bias"), products)

        def layer(block: str) -> Layer:
            return Layer(
                attention_norm=norm(f"{block}.attn_norm.weight"),
                query=linear(f"{block}.attn_q"),
                key=linear(f"{block}.attn_k"),
                value=linear(f"{block}.attn_v"),
                output=linear(f"{block}.attn_output"),
                query_norm=floats(f"{block}.attn_q_norm.weight"),
                key_norm=floats(f"{block}.attn_k_norm.weight"),
                ffn_norm=norm(f"{block}.ffn_norm.weight"),
                gate=linear(f"{block}.ffn_gate"),
                up=linear(f"{block}.ffn_up"),
                down=linear(f"{block}.ffn_down"),
            )

        return cls(
            embedding=model["token_embd.weight"],
            layers=tuple(layer(f"blk.{i}") for i in range(sizes.n_layers)),
            output_norm=norm("output_norm.weight"),
            output=linear("output" if "output.weight" in model else "token_embd"),
        )

    def embed(self, tokens: Sequence[int]) -> Floats:
        """The embeddings float32[len(tokens), hidden]; decodes the row of each distinct token once."""
        rows, places = np.unique(np.asarray(tokens, np.int64), return_inverse=True)
        embedded: Floats = self.embedding.dequantize(rows=rows)[places]
        return embedded
