"""Keys and values of the tokens so far, packed in a block format: F16, Q8_0 in about half the memory, or F32
as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from gguflow.arrays import Floats
from gguflow.blocks import FORMATS
from gguflow.errors import UsageError
from gguflow.inference.hyperparameters import Hyperparameters
from gguflow.quantization import dequantize, quantize

CACHE_FORMATS = ("f16", "q8_0", "f32")


class KeysAndValues(Protocol):
    """What a model asks of a cache; `Cache` says what is meant."""

    @property
    def capacity(self) -> int: ...

    @property
    def length(self) -> int: ...

    def extend(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]: ...

    def advance(self, n: int) -> None: ...


CacheChoice = str | Callable[[int], KeysAndValues]
"""The format of a cache in memory, or what makes an empty cache for so many tokens."""


class Cache:
    """Room for `capacity` tokens of one sequence. length: how many are in it."""

    def __init__(self, sizes: Hyperparameters, capacity: int, format: str = "f16") -> None:
        """Raises UsageError: another format, one whose blocks do not divide a head, or no memory."""
        if format not in CACHE_FORMATS:
            raise UsageError(f"a cache is kept as {', '.join(CACHE_FORMATS)}, not {format!r}")
        self.format = FORMATS[format]
        if sizes.head_dim % self.format.block_size:
            raise UsageError(
                f"{self.format} has blocks of {self.format.block_size}, which heads of {sizes.head_dim} are no multiple of; take f16"
            )
        self.capacity = capacity
        self.length = 0
        self._heads = (sizes.n_kv_heads, sizes.head_dim)
        row_bytes = self.format.row_bytes(sizes.n_kv_heads * sizes.head_dim)
        nbytes = sizes.n_layers * 2 * capacity * row_bytes
        try:
            self._packed = np.zeros((sizes.n_layers, 2, capacity, row_bytes), np.uint8)
        except (MemoryError, ValueError) as error:
            raise UsageError(
                f"there is no memory for the keys and values of {capacity} tokens, {nbytes} bytes"
            ) from error

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes

    def extend(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Keep what a layer has made of the next tokens, float32[n, n_kv_heads, head_dim] each; all keys and
        values so far, as they are kept.

        The tokens count once all layers have theirs: `advance`. Raises UsageError where the cache is full,
        NonFiniteError.
        """
        n = len(keys)
        last = self.length + n
        if last > self.capacity:
            raise UsageError(f"the cache has room for {self.capacity} tokens, and this would be token {last}")
        for packed, new in zip(self._packed[layer], (keys, values), strict=True):
            quantize(new.reshape(n, -1), self.format, out=packed[self.length : last])
        kept = (
            dequantize(packed[:last], self.format).reshape(last, *self._heads)
            for packed in self._packed[layer]
        )
        return next(kept), next(kept)

    def advance(self, n: int) -> None:
        """n tokens have gone through all layers."""
        self.length += n
