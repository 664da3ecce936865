"""The validator: its levels `structure` and `values` against reading the same file from the page cache.

For each format a file of --megabytes with random blocks is made in a temporary directory, once without the
digest set and once with it, and then read and judged in turns, both by one thread; reading goes piece by
piece into one buffer that stays in the core's cache. Neither waits for anything, so the time is that of the
processor, the best of --repetitions: others may be at work. The vocabulary is 150,000 tokens and 280,000
merges.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.timing import REPETITIONS
from gguflow import validation
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container import integrity
from gguflow.container.header import TensorInfo
from gguflow.container.metadata import Metadata, ValueType, array, string, u32
from gguflow.container.verification import leaf_digest
from gguflow.container.writer import build

GENERAL: Metadata = {"general.architecture": string("example"), "general.quantization_version": u32(2)}
ROWS = 16
PIECE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--formats",
        nargs="*",
        default=["q4_k", "q6_k", "q8_0", "bf16"],
        metavar="FORMAT",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--megabytes", type=int, default=500, metavar="N", help="of each file (default: %(default)s)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=REPETITIONS, metavar="N", help="(default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.gguf"
        write_vocabulary(path)
        (structure,) = processor_seconds(arguments.repetitions, lambda: judged(path, "structure"))
        print(f"structure, 150,000 tokens and 280,000 merges: {1e3 * structure:.0f} ms")
        for name in arguments.formats:
            for with_set in (False, True):
                write_blocks(path, FORMATS[name], arguments.megabytes * 1_000_000, with_set)
                gigabytes = path.stat().st_size / 1e9
                ours, theirs = processor_seconds(
                    arguments.repetitions, lambda: judged(path, "values"), lambda: read(path)
                )
                what = f"values of {name}, {'with' if with_set else 'without'} digests"
                print(
                    f"{what}: {gigabytes / ours:.1f} GB/s; reading {gigabytes / theirs:.1f} GB/s; "
                    f"ratio {theirs / ours:.2f}",
                    flush=True,
                )


def processor_seconds(repetitions: int, *works: Callable[[], object]) -> list[float]:
    """Of each, in turns, the best of some, after one run that does not count."""
    best = [float("inf")] * len(works)
    for repetition in range(repetitions + 1):
        for i, work in enumerate(works):
            start = time.process_time()
            work()
            if repetition:
                best[i] = min(best[i], time.process_time() - start)
    return best


def judged(path: Path, level: str) -> None:
    verdict, findings = validation.examine(path, level, threads=1)
    if verdict != "valid":
        raise SystemExit(f"{verdict}: {findings[0]}")


def read(path: Path) -> None:
    """All of the file, into one buffer."""
    buffer = memoryview(bytearray(PIECE))
    fd = os.open(path, os.O_RDONLY)
    try:
        while os.readv(fd, [buffer]):
            pass
    finally:
        os.close(fd)


def write_blocks(path: Path, block_format: BlockFormat, nbytes: int, with_set: bool) -> None:
    """One tensor of bytes from 1 to 59, which make finite numbers in every format."""
    blocks_per_row = max(nbytes // block_format.type_size // ROWS, 1)
    infos = [TensorInfo("t", (blocks_per_row * block_format.block_size, ROWS), block_format.id, 0)]
    data = np.random.default_rng(0).integers(
        1, 60, ROWS * blocks_per_row * block_format.type_size, dtype=np.uint8
    )
    content = memoryview(data.tobytes() + bytes(-data.size % 32))
    metadata = GENERAL | (integrity.placeholder(1, block_format.key, "example", []) if with_set else {})
    header = build(metadata, infos)
    if with_set:
        step = integrity.LEAF_WEIGHTS // block_format.block_size * block_format.type_size
        cuts = [*range(0, data.size, step), len(content)]
        digests = [leaf_digest(content, first, last) for first, last in itertools.pairwise(cuts)]
        header = integrity.completed_header(
            metadata, infos, 32, len(header) + len(content), [integrity.tensor_digest(digests)]
        )
    with path.open("wb") as file:
        file.write(header)
        file.write(content)


def write_vocabulary(path: Path, n_tokens: int = 150_000, n_merges: int = 280_000) -> None:
    """A file of one small tensor with the vocabulary of a byte-level BPE."""
    tokens = [f"tok{i * 2654435761 % 999983:x}" for i in range(n_tokens)]
    merges = [f"{tokens[i % n_tokens]} {tokens[(i + 1 + i // n_tokens) % n_tokens]}" for i in range(n_merges)]
    metadata = GENERAL | {
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.tokens": array(ValueType.STRING, tokens),
        "tokenizer.ggml.token_type": array(ValueType.INT32, [1] * len(tokens)),
        "tokenizer.ggml.merges": array(ValueType.STRING, merges),
    }
    path.write_bytes(build(metadata, [TensorInfo("t", (8,), 0, 0)]) + bytes(32))
