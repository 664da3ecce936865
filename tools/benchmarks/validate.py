"""The validator: its levels `structure` and `values` against reading the same file from the page cache.

For each format a file of --megabytes with random blocks is made in a temporary directory, and then read and judged in turns, both by one thread;
reading goes piece by piece into one buffer that stays in the core's cache. Neither waits for anything, so the time is that of the processor, the best
of five: others may be at work. The vocabulary is 150,000 tokens and 280,000 merges.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.timing import REPETITIONS
from gguflow import validation
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container.header import TensorInfo, build
from gguflow.container.metadata import Metadata, ValueType, array, string, u32

GENERAL: Metadata = {"general.architecture": string("example"), "general.quantization_version": u32(2)}
ROWS = 16
PIECE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--formats", nargs="*", default=["q4_k", "q6_k", "q8_0", "bf16"], metavar="FORMAT", help="(default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=500, metavar="N", help="of each file (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.gguf"
        write_vocabulary(path)
        print(f"structure, 150,000 tokens and 280,000 merges: {1e3 * processor_seconds(lambda: judged(path, 'structure')):.0f} ms")
        for name in arguments.formats:
            write_blocks(path, FORMATS[name], arguments.megabytes * 1_000_000)
            gigabytes = path.stat().st_size / 1e9
            ours, theirs = (processor_seconds(work) for work in (lambda: judged(path, "values"), lambda: read(path)))
            print(f"values, {name}: {gigabytes / ours:.1f} GB/s; reading {gigabytes / theirs:.1f} GB/s; ratio {theirs / ours:.2f}")


def processor_seconds(work: Callable[[], object]) -> float:
    """After one run that does not count."""
    work()
    times = []
    for _ in range(REPETITIONS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


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


def write_blocks(path: Path, block_format: BlockFormat, nbytes: int) -> None:
    """One tensor of bytes from 1 to 59, which make finite numbers in every format."""
    blocks_per_row = max(nbytes // block_format.type_size // ROWS, 1)
    infos = [TensorInfo("t", (blocks_per_row * block_format.block_size, ROWS), block_format.id, 0)]
    data = np.random.default_rng(0).integers(1, 60, ROWS * blocks_per_row * block_format.type_size, dtype=np.uint8)
    with path.open("wb") as file:
        file.write(build(GENERAL, infos))
        file.write(data.data)
        file.write(bytes(-data.size % 32))


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
