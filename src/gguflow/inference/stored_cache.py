"""Keys and values of the tokens so far in files that grow: a RowStore for the keys and one for the values of
each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflow.arrays import Floats
from gguflow.errors import UsageError
from gguflow.inference.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from gguflow.rows import RowStore


class StoredCache:
    """A cache of one sequence in row stores; a sequence that is in them is gone on with.

    stores: of each layer (keys, values), open for writing, rows of n_kv_heads * head_dim.
    length: how many tokens are in it. capacity: how many may be.
    """

    def __init__(
        self, sizes: Hyperparameters, stores: Sequence[tuple[RowStore, RowStore]], capacity: int
    ) -> None:
        """Raises UsageError where the stores are not those of the model's layers, or do not hold the same
        tokens.
        """
        width = sizes.n_kv_heads * sizes.head_dim
        of_all = [store for pair in stores for store in pair]
        if len(stores) != sizes.n_layers or any(store.width != width for store in of_all):
            raise UsageError(
                f"the model has {sizes.n_layers} layers with rows of {width}; the stores are for another"
            )
        if len({len(store) for store in of_all}) > 1:
            raise UsageError("the stores hold different numbers of tokens: a writer was stopped between them")
        self.capacity = capacity
        self.length = len(of_all[0])
        self._stores = stores
        self._heads = (sizes.n_kv_heads, sizes.head_dim)

    def extend(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """As `Cache.extend`. Raises UsageError where the cache is full, and what `RowStore.append` raises."""
        last = self.length + len(keys)
        if last > self.capacity:
            raise UsageError(f"the cache has room for {self.capacity} tokens, and this would be token {last}")
        kept = []
        for store, new in zip(self._stores[layer], (keys, values), strict=True):
            store.append(new.reshape(len(new), -1))
            kept.append(store.rows().reshape(last, *self._heads))
        return kept[0], kept[1]

    def advance(self, n: int) -> None:
        """n tokens have gone through all layers."""
        self.length += n

    def flush(self) -> None:
        """Have all tokens so far on the medium."""
        for pair in self._stores:
            for store in pair:
                store.flush()
