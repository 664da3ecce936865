"""All matrix products of one token of a model, one thread, against llama.cpp's token generation: llama-bench
on the same file.

Ours is the time of one vector times every matrix, straight from the mapped file, with float32 and with int8
activations; llama-bench's token has its attention besides, little at the start of a context. Processor time,
so that others may be at work: of llama-bench's process with more tokens less with fewer, of ours the median.
Prints tokens a second, GB/s of packed bytes, and times llama.cpp's speed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
from pathlib import Path
from time import process_time

import numpy as np

import gguflow
from benchmarks.timing import REPETITIONS, seconds

FEW, MORE = 4, 36
"""Tokens of llama-bench's two runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a GGUF file of a decoder, some 100 MB or more")
    parser.add_argument("--llama-bench", type=Path, required=True, help="llama-bench, built")


def run(arguments: argparse.Namespace) -> None:
    few, more = (llama_bench(arguments.llama_bench, arguments.model, n) for n in (FEW, MORE))
    theirs = (more - few) / (MORE - FEW)
    print(f"{'llama-bench':12} {1 / theirs:6.2f} tokens/s")
    with gguflow.open(arguments.model) as model:
        rows_only = (
            {"token_embd.weight"} if "output.weight" in model else set()
        )  # a token takes one row of it, not a product
        matrices = [tensor for name, tensor in model.items() if tensor.ndim == 2 and name not in rows_only]
        nbytes = sum(matrix.nbytes for matrix in matrices)
        rng = np.random.default_rng(0)
        vectors = {n: rng.standard_normal(n, np.float32) for n in {matrix.shape[1] for matrix in matrices}}
        for activations in ("float32", "int8"):

            def token(activations: str = activations) -> None:
                for matrix in matrices:
                    matrix.matmul(vectors[matrix.shape[1]], activations=activations)

            token()
            ours = statistics.median(seconds(token, process_time) for _ in range(REPETITIONS))
            print(
                f"{activations:12} {1 / ours:6.2f} tokens/s {nbytes / ours / 1e9:6.1f} GB/s, ratio "
                f"{theirs / ours:.2f}"
            )


def llama_bench(program: Path, model: Path, n: int) -> float:
    """Seconds of processor time that llama-bench takes with n tokens."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [program, "-m", model, "-t", "1", "-p", "0", "-n", str(n), "-r", "1"], check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
