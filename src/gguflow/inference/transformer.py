"""The forward pass of Llama, Qwen2 and Qwen3 over mapped tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguflow.arrays import Floats
from gguflow.errors import NonFiniteError, UsageError
from gguflow.inference.attention import attend
from gguflow.inference.cache import KVCache, PackedKVCache
from gguflow.inference.hyperparameters import Hyperparameters
from gguflow.inference.rope import Rope, Rotation
from gguflow.inference.weights import Layer, MatmulOptions, Weights
from gguflow.threads import resolve as resolve_threads

if TYPE_CHECKING:
    from gguflow.runtime import Model


PIECE = 128
"""Tokens that go through the layers together: enough to make decoding of weights cheap, few enough to keep
scores and logits small.
"""


class Transformer:
    """A model that can be run: mapped matrices, norms and biases; the state of a sequence is in its cache.

    sizes: its hyper-parameters.
    """

    def __init__(self, model: Model, *, activations: str = "float32", threads: int | None = None) -> None:
        """Prepare a model to be run.

        model: an open model, which must stay open.
        activations: "float32", or "int8" as in llama.cpp.
        threads: number of threads; None for all processors.

        Raises UnsupportedError (X-001 to X-003), InvalidError (X-004).
        """
        self.sizes = Hyperparameters.of(model)
        self._rope = Rope.of(model, self.sizes)
        self._weights = Weights.of(model, self.sizes, MatmulOptions(activations, resolve_threads(threads)))

    def cache(self, capacity: int, format: str = "f16") -> PackedKVCache:
        """An empty cache for up to `capacity` tokens. Raises UsageError as PackedKVCache does."""
        return PackedKVCache(self.sizes, capacity, format)

    def read(self, tokens: Sequence[int], cache: KVCache) -> Floats:
        """Read tokens that follow those in the cache; the logits after the last one: float32[n_tokens].

        Raises UsageError as `forward`.
        """
        if not tokens:
            raise UsageError("there are no tokens to read: an empty text has no prediction")
        last = (len(tokens) - 1) // PIECE * PIECE
        for first in range(0, last, PIECE):
            self.forward(tokens[first : first + PIECE], cache, 0)
        logits: Floats = self.forward(tokens[last:], cache, 1)[0]
        return logits

    def forward(self, tokens: Sequence[int], cache: KVCache, n_outputs: int) -> Floats:
        """Read tokens that follow those in the cache, all at once; logits: float32[n_outputs, n_tokens].

        tokens: ids.
        cache: of the sequence.
        n_outputs: number of last tokens after which logits are returned.

        Raises UsageError for a token outside the vocabulary and a full cache, NonFiniteError if the model
        computes NaN or infinity.
        """
        outside = [token for token in tokens if not 0 <= token < self.sizes.n_tokens]
        if outside:
            raise UsageError(f"token {outside[0]} is outside the vocabulary, which has {self.sizes.n_tokens}")
        with np.errstate(over="ignore", invalid="ignore"):  # the logits are checked instead
            logits = self._logits(tokens, cache, n_outputs)
        if not np.isfinite(logits).all():
            raise NonFiniteError(
                "the model computes logits that are NaN or infinite",
                int(np.flatnonzero(~np.isfinite(logits))[0]),
            )
        return logits

    def _logits(self, tokens: Sequence[int], cache: KVCache, n_outputs: int) -> Floats:
        x = self._weights.embed(tokens)
        rotation = self._rope.rotation(cache.length, len(tokens))
        for i, layer in enumerate(self._weights.layers):
            x = x + self._attention(i, layer, self._norm(x, layer.attention_norm), rotation, cache)
            h = self._norm(x, layer.ffn_norm)
            x = x + layer.down(silu(layer.gate(h)) * layer.up(h))
        cache.advance(len(tokens))
        return self._weights.output(self._norm(x[len(tokens) - n_outputs :], self._weights.output_norm))

    def _attention(self, i: int, layer: Layer, h: Floats, rotation: Rotation, cache: KVCache) -> Floats:
        """Attention of layer i for normalized h, float32[n, hidden].

        Queries and keys are normalized per head (in Qwen3) and rotated.
        """
        n, width = len(h), self.sizes.head_dim
        queries = layer.query(h).reshape(n, self.sizes.n_heads, width)
        keys, values = (
            project(h).reshape(n, self.sizes.n_kv_heads, width) for project in (layer.key, layer.value)
        )
        if layer.query_norm is not None:
            queries = self._norm(queries, layer.query_norm)
        if layer.key_norm is not None:
            keys = self._norm(keys, layer.key_norm)
        all_keys, all_values = cache.extend(i, self._rope.rotate(keys, rotation), values)
        attended = attend(self._rope.rotate(queries, rotation), all_keys, all_values)
        return layer.output(attended.reshape(n, self.sizes.n_heads * width))

    def _norm(self, x: Floats, weight: Floats) -> Floats:
        """Root-mean-square norm over the last axis."""
        mean = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float64)
        scale: Floats = (1 / np.sqrt(mean + self.sizes.epsilon)).astype(np.float32)
        return x * scale * weight


def silu(x: Floats) -> Floats:
    """x * sigmoid(x)."""
    quotient: Floats = x / (
        1 + np.exp(-x)
    )  # exp overflows for very negative x, and the quotient is correctly 0
    return quotient
