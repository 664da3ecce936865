"""The forward pass of Llama, Qwen2 and Qwen3 over mapped tensors: what each block computes, and the order of
blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguflow.arrays import Floats
from gguflow.errors import NonFiniteError, UsageError
from gguflow.inference.attention import attend
from gguflow.inference.cache import Cache, KeysAndValues
from gguflow.inference.hyperparameters import Hyperparameters
from gguflow.inference.rope import Rope, Rotation
from gguflow.inference.weights import Layer, Products, Weights

if TYPE_CHECKING:
    from gguflow.runtime import Model


PIECE = 128
"""Tokens that go through the layers together: enough that decoding a block of weights counts little, few
enough that scores and logits stay small.
"""


class Transformer:
    """A model that can be run. sizes: its hyper-parameters. It holds the map, norms and biases, and nothing
    of a sequence: that is the cache's.
    """

    def __init__(self, model: Model, *, activations: str = "float32", threads: int = 1) -> None:
        """model: open, and open for as long as this is used. Raises UnsupportedError (X-001 to X-003),
        InvalidError (X-004).
        """
        self.sizes = Hyperparameters.of(model)
        self._rope = Rope.of(model, self.sizes)
        self._weights = Weights.of(model, self.sizes, Products(activations, threads))

    def cache(self, capacity: int, format: str = "f16") -> Cache:
        """An empty cache for a sequence of up to `capacity` tokens. Raises UsageError as Cache does."""
        return Cache(self.sizes, capacity, format)

    def read(self, tokens: Sequence[int], cache: KeysAndValues) -> Floats:
        """Read tokens that follow those in the cache; what follows the last: logits, float32[n_tokens].
        Raises UsageError as `forward`.
        """
        if not tokens:
            raise UsageError("there is no token to read: an empty text says nothing about what follows")
        last = (len(tokens) - 1) // PIECE * PIECE
        for first in range(0, last, PIECE):
            self.forward(tokens[first : first + PIECE], cache, 0)
        logits: Floats = self.forward(tokens[last:], cache, 1)[0]
        return logits

    def forward(self, tokens: Sequence[int], cache: KeysAndValues, n_outputs: int) -> Floats:
        """Read tokens that follow those in the cache, all at once; the logits after each of the last
        n_outputs: float32[n_outputs, n_tokens].

        Raises UsageError for a token outside of the vocabulary and a full cache, NonFiniteError where the
        model computes NaN or infinity.
        """
        outside = [token for token in tokens if not 0 <= token < self.sizes.n_tokens]
        if outside:
            raise UsageError(
                f"token {outside[0]} is outside of the vocabulary, which has {self.sizes.n_tokens}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # judged by what comes out
            logits = self._logits(tokens, cache, n_outputs)
        if not np.isfinite(logits).all():
            raise NonFiniteError(
                "the model computes logits that are NaN or infinite",
                int(np.flatnonzero(~np.isfinite(logits))[0]),
            )
        return logits

    def _logits(self, tokens: Sequence[int], cache: KeysAndValues, n_outputs: int) -> Floats:
        x = self._weights.embed(tokens)
        rotation = self._rope.rotation(cache.length, len(tokens))
        for i, layer in enumerate(self._weights.layers):
            x = x + self._attention(i, layer, self._norm(x, layer.attention_norm), rotation, cache)
            h = self._norm(x, layer.ffn_norm)
            x = x + layer.down(silu(layer.gate(h)) * layer.up(h))
        cache.advance(len(tokens))
        return self._weights.output(self._norm(x[len(tokens) - n_outputs :], self._weights.output_norm))

    def _attention(self, i: int, layer: Layer, h: Floats, rotation: Rotation, cache: KeysAndValues) -> Floats:
        """h: float32[n, hidden], normalized. Queries and keys are (in Qwen3) normalized per head, and
        rotated.
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
    )  # exp overflows for very negative x, and the quotient is the 0 that it should be
    return quotient
