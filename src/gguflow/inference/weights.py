"""Which tensor of the file is what in a decoder. Matrices stay packed in the map; only norms and biases, a
few rows, are decoded.
"""

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
class Products:
    """How products with packed matrices are computed. activations: "float32", or "int8" as llama.cpp does it.
    threads: for each product.
    """

    activations: str = "float32"
    threads: int = 1


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b: float32[..., n] -> float32[..., rows]."""

    weight: Tensor
    bias: Floats | None
    products: Products

    def __call__(self, x: Floats) -> Floats:
        y = self.weight.matmul(x, activations=self.products.activations, threads=self.products.threads)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class Layer:
    """One block. query_norm, key_norm: float32[head_dim], of Qwen3; None elsewhere."""

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
    """All of a decoder. output: the embedding matrix once more, where the file has no output matrix (tied
    embeddings).
    """

    embedding: Tensor
    layers: tuple[Layer, ...]
    output_norm: Floats
    output: Linear

    @classmethod
    def of(cls, model: Model, sizes: Hyperparameters, products: Products) -> Weights:
        """The tensors of an open model, whose names and shapes have been judged by opening it."""

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
        """float32[len(tokens), hidden]: only the rows of these tokens are decoded, each once."""
        rows, places = np.unique(np.asarray(tokens, np.int64), return_inverse=True)
        embedded: Floats = self.embedding.dequantize(rows=rows)[places]
        return embedded
