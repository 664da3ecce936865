"""A KV cache in files: for each layer a RowStore for the keys and one for the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflow.arrays import Floats
from gguflow.errors import UsageError
from gguflow.inference.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from gguflow.rows import RowStore


class RowStoreKVCache:
    """A cache of one sequence in row stores; it continues the sequence that they contain.

    stores: (keys, values) of each layer, open for writing, with rows of n_kv_heads * head_dim.
    capacity: the most tokens.
    length: the number of tokens in it.
    """

    def __init__(
        self, sizes: Hyperparameters, stores: Sequence[tuple[RowStore, RowStore]], capacity: int
    ) -> None:
        """Raises UsageError if the stores do not fit the model's layers, or have different lengths."""
        width = sizes.n_kv_heads * sizes.head_dim
        of_all = [store for pair in stores for store in pair]
        if len(stores) != sizes.n_layers or any(store.width != width for store in of_all):
            raise UsageError(
                f"the model has {sizes.n_layers} layers with rows of {width}; the stores do not fit it"
            )
        if len({len(store) for store in of_all}) > 1:
            raise UsageError("the stores hold different numbers of tokens: a writer was stopped between them")
        self.capacity = capacity
        self.length = len(of_all[0])
        self._stores = stores
        self._heads = (sizes.n_kv_heads, sizes.head_dim)

    def extend(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """As `PackedKVCache.extend`. Raises UsageError if the cache is full, and what `append` raises."""
        last = self.length + len(keys)
        if last > self.capacity:
            raise UsageError(f"the cache has room for {self.capacity} tokens, and this would be token {last}")
        kept = []
        for store, new in zip(self._stores[layer], (keys, values), strict=True):
            store.append(new.reshape(len(new), -1))
            kept.append(store.rows().reshape(last, *self._heads))
        return kept[0], kept[1]

    def advance(self, n: int) -> None:
        """Count n tokens, after they have gone through all layers."""
        self.length += n

    def flush(self) -> None:
        """Write all tokens so far to the storage device."""
        for pair in self._stores:
            for store in pair:
                store.flush()
