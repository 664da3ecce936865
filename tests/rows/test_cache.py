"""Keys and values kept in row stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguflow
from gguflow.errors import (
    UsageError,
)
from gguflow.inference.stored_cache import RowStoreKVCache
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from gguflow.rows import RowStore
from testing.checkpoints import TINY


def test_a_cache_in_row_stores_is_a_cache(tmp_path: Path) -> None:
    """The logits are those of the cache in memory; after a restart the sequence goes on."""
    with gguflow.open(gguflow.convert(TINY, tmp_path / "model.gguf", type="q8_0").output) as model:
        transformer = Transformer(model)
        tokens = Tokenizer(model.metadata, model.path).encode("def main(arguments):\n    return 0\n")
        half = len(tokens) // 2
        parts = [slice(0, half), slice(half, len(tokens))]
        in_memory = transformer.cache(len(tokens), "q8_0")
        expected = [transformer.forward(tokens[part], in_memory, half) for part in parts]
        width = transformer.sizes.n_kv_heads * transformer.sizes.head_dim

        def opened(n_layers: int) -> list[tuple[RowStore, RowStore]]:
            paths = [[tmp_path / f"{i}.{kind}.gguf" for kind in ("keys", "values")] for i in range(n_layers)]
            return [
                (RowStore(k, "q8_0", width, mode="a"), RowStore(v, "q8_0", width, mode="a")) for k, v in paths
            ]

        for part, logits in zip(parts, expected, strict=True):
            stores = opened(transformer.sizes.n_layers)
            cache = RowStoreKVCache(transformer.sizes, stores, len(tokens))
            assert cache.length == part.start
            np.testing.assert_array_equal(transformer.forward(tokens[part], cache, half), logits)
            cache.flush()
            assert all(store.n_flushed == part.stop for pair in stores for store in pair)
            with pytest.raises(UsageError, match="room for"):
                transformer.forward(tokens, cache, 1)
            if part.start:
                stores[0][0].append(np.zeros(width, np.float32))
                with pytest.raises(UsageError, match="different numbers"):
                    RowStoreKVCache(transformer.sizes, stores, len(tokens))
                with pytest.raises(UsageError, match="layers"):
                    RowStoreKVCache(transformer.sizes, stores[1:], len(tokens))
            for pair in stores:
                for store in pair:
                    store.close()
