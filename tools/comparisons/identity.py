"""Our bytes against ggml's, on millions of weights: every block format, several kinds of weights.

    tools/compare identity                                       10 M weights per format and kind (1 M for the
                                                                 slow grid formats)
    tools/compare identity --only q4_k,q6_k --weights 1000000
    tools/compare identity --checkpoint model.safetensors        real weights beside the random ones
                                                                 (repeatable)

With and without importance. Prints, for each format, how many blocks differ; exit code 1 where any does.
Decoding is compared as well, on random bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT

import numpy as np
from numpy.typing import NDArray

from gguflow import sources
from gguflow.blocks import FORMATS, BlockFormat, by_name
from gguflow.quantization import decode, dequantize, quantize
from gguflow.sources.reading import TensorReader
from testing import ggml
from testing.cases import importances

ROW = 4096
TINY = ROOT / "fixtures" / "models" / "tiny-py-llama" / "model.safetensors"
CHUNK = 1 << 20  # weights compared at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="formats, with commas between them")
    parser.add_argument("--weights", type=int, help="per format and kind")
    parser.add_argument(
        "--checkpoint", type=Path, action="append", default=[TINY], help="safetensors with real weights"
    )


def run(arguments: argparse.Namespace) -> int:
    chosen = (
        [by_name(name) for name in arguments.only.split(",")]
        if arguments.only
        else [f for f in FORMATS.values() if is_encoded(f)]
    )
    n_bad = 0
    for block_format in chosen:
        is_slow = block_format.key.startswith(("iq1", "iq2", "iq3"))
        n = arguments.weights or (1_000_000 if is_slow else 10_000_000)
        n_bad += compare_decoding(block_format)
        for kind, rows in (
            ("gaussian", gaussian(n)),
            ("student", student(n)),
            *((p.parent.name, real(p, n)) for p in arguments.checkpoint),
        ):
            n_bad += compare_encoding(block_format, kind, rows)
    print("all equal" if not n_bad else f"{n_bad} blocks differ")
    return int(n_bad > 0)


def is_encoded(block_format: BlockFormat) -> bool:
    return block_format.name != "F32" and (block_format.number_type is None or block_format.name == "F16")


def gaussian(n: int) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    for first in range(0, n, CHUNK):
        yield rng.standard_normal((-(-min(CHUNK, n - first) // ROW), ROW), np.float32) * np.float32(0.02)


def student(n: int) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(2)
    for first in range(0, n, CHUNK):
        yield (rng.standard_t(3, (-(-min(CHUNK, n - first) // ROW), ROW)) * 0.02).astype(np.float32)


def real(path: Path, n: int) -> Iterator[NDArray[np.float32]]:
    """The matrices of a checkpoint as rows of ROW weights, up to n weights."""
    checkpoint = sources.open_checkpoint(path)
    with TensorReader(checkpoint) as reader:
        for tensor in checkpoint.tensors.values():
            if len(tensor.shape) < 2 or tensor.format is None or n <= 0:
                continue
            for first in range(0, tensor.n_weights // ROW * ROW, CHUNK):
                last = min(first + CHUNK, tensor.n_weights // ROW * ROW)
                rows = np.empty(last - first, np.float32)
                decode(reader.read(tensor, first, last), tensor.format, rows)
                n -= rows.size
                yield rows.reshape(-1, ROW)


def compare_encoding(block_format: BlockFormat, kind: str, chunks: Iterator[NDArray[np.float32]]) -> int:
    """Blocks that differ, over all chunks: without importance, and with each kind of it on the first
    chunk.
    """
    n_bad = n_blocks = 0
    for i, x in enumerate(chunks):
        weights: dict[str, NDArray[np.float32] | None] = (
            {} if block_format.importance == "required" else {"none": None}
        )
        if block_format.importance != "unused" and (i == 0 or not weights):
            named = importances(ROW)
            weights |= {
                name: named[name] for name in (("random",) if i else ("random", "with zeros", "one-hot"))
            }
        for importance in weights.values():
            ours, theirs = quantize(x, block_format, importance), ggml.quantize(x, block_format, importance)
            differing = (ours != theirs).reshape(-1, block_format.type_size).any(axis=1)
            n_bad += int(differing.sum())
            n_blocks += differing.size
    print(
        f"{block_format.name:8} {kind:14} {n_blocks * block_format.block_size / 1e6:7.1f} M weights  "
        f"{n_bad} of {n_blocks} blocks differ",
        flush=True,
    )
    return n_bad


def compare_decoding(block_format: BlockFormat) -> int:
    rng = np.random.default_rng(3)
    packed = rng.integers(0, 256, (4096, block_format.type_size), np.uint8)
    ours, theirs = (f(packed, block_format) for f in (dequantize, ggml.dequantize))
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    n_bad = int((~same).any(axis=1).sum())
    if n_bad:
        print(f"{block_format.name:8} decoding       {n_bad} of {len(packed)} blocks differ")
    return n_bad
