"""Keys and values in row stores of several formats: their noise, and what perplexity it costs.

Runs tiny-py-llama. Prints a line for each format: bytes of a row (keys or values of one token in one layer)
and bits per number; signal to noise of keys and of values as stored, over all tokens and layers; the
perplexity of the held-out text as gguflow perplexity scores it, and against the cache that is kept in F16 in
memory.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gguflow
from gguflow.inference.hyperparameters import Hyperparameters
from gguflow.inference.perplexity import Score, score
from gguflow.inference.stored_cache import RowStoreKVCache
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from testing.checkpoints import TINY

Floats = NDArray[np.float32]
FORMATS = "f16,q8_0,int8_row,int8_b128,affine8_b64,q4_0,q4_1,affine4_b64,affine4_b32,int4_b128,nf4_b64"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--formats", default=FORMATS, help="comma-separated (default: %(default)s)")
    parser.add_argument("--type", default="f16", help="of the model's weights (default: %(default)s)")
    parser.add_argument("--chunks", type=int, metavar="N", help="of 512 tokens to read (default: all)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the model and the stores go")


def run(arguments: argparse.Namespace) -> int:
    text = (TINY / "heldout.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=arguments.work) as directory:
        work = Path(directory)
        with gguflow.open(gguflow.convert(TINY, work / "model.gguf", type=arguments.type).output) as model:
            transformer, tokenizer = Transformer(model), Tokenizer(model.metadata, model.path)
            base = score(transformer, tokenizer, text, max_chunks=arguments.chunks)
            print(
                f"{base.n_chunks} chunks of {base.context} tokens, cache in F16 in memory: perplexity "
                f"{shown(base)}"
            )
            print(
                "| format | bytes a row | bits a number | SNR of keys, dB | SNR of values, dB | perplexity "
                "| against F16 |\n|---|---:|---:|---:|---:|---:|---:|"
            )
            for name in arguments.formats.split(","):
                stores = Stores(transformer.sizes, name, work)
                found = score(transformer, tokenizer, text, max_chunks=arguments.chunks, cache=stores.cache)
                stores.close()
                keys, values = stores.noise
                change = found.perplexity.mean / base.perplexity.mean - 1
                figures = [
                    name,
                    str(stores.row_nbytes),
                    f"{stores.bits:.2f}",
                    f"{keys.decibels:.1f}",
                    f"{values.decibels:.1f}",
                    shown(found),
                    f"{change:+.3%}",
                ]
                print(f"| {' | '.join(figures)} |", flush=True)
    return 0


def shown(found: Score) -> str:
    return f"{found.perplexity.mean:.4f}"


@dataclass
class Noise:
    """How far what is kept is from what was given, so far."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, given: Floats, kept: Floats) -> None:
        exact = given.astype(np.float64)
        self.signal += float(np.square(exact).sum())
        self.error += float(np.square(exact - kept).sum())

    @property
    def decibels(self) -> float:
        return 10 * math.log10(self.signal / self.error) if self.error else math.inf


class MeasuredCache(RowStoreKVCache):
    """A stored cache that is looked at: what comes out of it against what went in."""

    noise: tuple[Noise, Noise]

    def extend(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        all_kept = super().extend(layer, keys, values)
        for noise, given, kept in zip(self.noise, (keys, values), all_kept, strict=True):
            noise.add(given, kept[self.length :])
        return all_kept


class Stores:
    """The stores of all layers, made anew for each sequence, and the noise of all of them together."""

    def __init__(self, sizes: Hyperparameters, format: str, work: Path) -> None:
        self.noise = (Noise(), Noise())
        self.row_nbytes = 0
        self._sizes, self._format, self._work = sizes, format, work
        self._open = ExitStack()

    @property
    def bits(self) -> float:
        return 8 * self.row_nbytes / (self._sizes.n_kv_heads * self._sizes.head_dim)

    def cache(self, capacity: int) -> MeasuredCache:
        self.close()
        width = self._sizes.n_kv_heads * self._sizes.head_dim
        pairs = []
        for layer in range(self._sizes.n_layers):
            paths = (self._work / f"{layer}.{kind}.gguf" for kind in ("keys", "values"))
            keys, values = (
                self._open.enter_context(gguflow.RowStore(path, self._format, width, overwrite=True))
                for path in paths
            )
            pairs.append((keys, values))
        self.row_nbytes = pairs[0][0].row_nbytes
        cache = MeasuredCache(self._sizes, pairs, capacity)
        cache.noise = self.noise
        return cache

    def close(self) -> None:
        self._open.close()
