"""The KV cache, packed in a block format: F16, Q8_0 in about half the memory, or F32 unpacked."""

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


class KVCache(Protocol):
    """The interface of a KV cache; `PackedKVCache` documents it."""

    @property
    def capacity(self) -> int: ...

    @property
    def length(self) -> int: ...

    def extend(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]: ...

    def advance(self, n: int) -> None: ...


CacheChoice = str | Callable[[int], KVCache]
"""The format of a cache in memory, or a function that makes an empty cache for a number of tokens."""


class PackedKVCache:
    """Keys and values of up to `capacity` tokens of one sequence, in memory.

    capacity: the most tokens.
    length: the number of tokens in it.
    """

    def __init__(self, sizes: Hyperparameters, capacity: int, format: str = "f16") -> None:
        """Raises UsageError for an unknown format, blocks that do not divide a head, or too little memory."""
        if format not in CACHE_FORMATS:
            raise UsageError(
                f"the format of a cache must be one of {', '.join(CACHE_FORMATS)}, not {format!r}"
            )
        self.format = FORMATS[format]
        if sizes.head_dim % self.format.block_size:
            raise UsageError(
                f"heads of {sizes.head_dim} do not divide into {self.format} blocks of "
                f"{self.format.block_size}; use f16"
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
        """Store a layer's keys and values of the next tokens, and return all of the layer as stored.

        `advance` counts the tokens, after all layers have stored theirs.

        layer: number of the layer.
        keys, values: float32[n, n_kv_heads, head_dim].

        Raises UsageError if the cache is full, NonFiniteError.
        """
        n = len(keys)
        last = self.length + n
        if last > self.capacity:
            raise UsageError(f"the cache has room for {self.capacity} tokens, and this would be token {last}")
        for packed, new in zip(self._packed[layer], (keys, values), strict=True):
            quantize(new.reshape(n, -1), self.format, threads=1, out=packed[self.length : last])
        kept = (
            dequantize(packed[:last], self.format, threads=1).reshape(last, *self._heads)
            for packed in self._packed[layer]
        )
        return next(kept), next(kept)

    def advance(self, n: int) -> None:
        """Count n tokens, after they have gone through all layers."""
        self.length += n
