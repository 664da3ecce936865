"""Vectors times packed matrices, from the packed blocks, one thread: against ggml's vec_dot, against this
machine's memory, against NumPy.

For each format a matrix of rows of 4096 weights, once in cache and once larger than the last-level cache
(--megabytes), and one vector: GB/s of packed bytes of `gguflow.packed_matmul.matmul` with float32 and with
int8 activations, each also as a multiple of ggml's speed, beside a plain read of the same bytes (the largest
of their 64-bit words). Then, on at most --weights weights, how many times faster it is than NumPy with a
dequantized matrix: dequantize with gguflow, or with gguf-py, then multiply. The last columns are a prompt of
--prompt vectors: GFLOP/s, and how many times as fast as dequantizing with gguflow and multiplying. Processor
time, medians of 5 (against NumPy 3): others may be at work. Set OPENBLAS_NUM_THREADS=1.

ggml's vec_dot is the one in the xllamacpp wheel, called for row after row by compiled code; rounding the
activations is in our time, not in ggml's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import process_time
from typing import Any

import gguf
import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Comparison, compare
from gguflow.blocks import BlockFormat, by_name
from gguflow.packed_matmul import matmul
from gguflow.quantization import dequantize
from testing import ggml

N = 4096
DEFAULT = "q4_0,q8_0,q4_k,q5_k,q6_k,iq4_xs,mxfp4,bf16,f16,q5_0,q2_k,iq3_s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", metavar="NAMES", default=DEFAULT, help="comma-separated format names (default: %(default)s)"
    )
    parser.add_argument(
        "--megabytes",
        nargs="+",
        type=int,
        default=[16, 640],
        metavar="N",
        help="sizes of the matrix (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt", type=int, default=64, metavar="N", help="vectors of the prompt (default: %(default)s)"
    )
    parser.add_argument(
        "--weights", type=int, default=1 << 24, metavar="N", help="what NumPy gets, at most (default: 16 Mi)"
    )


def run(arguments: argparse.Namespace) -> None:
    titles = (("", 8), ("MB", 5), ("read", 6), ("float32", 8), ("x ggml", 7), ("int8", 6), ("x ggml", 7))
    more_titles = (("x NumPy", 8), ("x gguf-py", 9), ("prompt", 7), ("x NumPy", 8))
    print(" ".join(f"{title:>{width}}" for title, width in (*titles, *more_titles)))
    for name in arguments.only.split(","):
        for megabytes in arguments.megabytes:
            print(line(by_name(name), megabytes * 1_000_000, arguments.weights, arguments.prompt), flush=True)


def line(block_format: BlockFormat, nbytes: int, weights: int, n_prompt: int) -> str:
    """One row of the table."""
    row_bytes = block_format.row_bytes(N)
    sample = random_rows(block_format, 64)
    packed = np.resize(sample, (max(nbytes // row_bytes, 1), row_bytes))
    x = np.random.default_rng(2).standard_normal(N, np.float32)
    gigabytes = packed.nbytes / 1e9
    theirs = ggml_products(block_format, packed, x)
    floats = compare(lambda: matmul(packed, block_format, x), theirs, clock=process_time)
    integers = compare(
        lambda: matmul(packed, block_format, x, activations="int8"), theirs, clock=process_time
    )
    words = packed.reshape(-1)[: packed.nbytes // 8 * 8].view(np.uint64)
    reading = compare(words.max, words.max, clock=process_time)
    part = packed[: max(weights // N, 1)]
    by_numpy = against_numpy(block_format, part, x, lambda: dequantize(part, block_format))
    by_gguf_py = against_numpy(block_format, part, x, gguf_py_decoder(block_format, part))
    prompt = np.random.default_rng(3).standard_normal((n_prompt, N), np.float32)
    long = against_numpy(block_format, part, prompt, lambda: dequantize(part, block_format))
    flops = 2 * n_prompt * N * len(part) / long.ours / 1e9 if long else 0
    return (
        f"{block_format.name:8} {nbytes // 1_000_000:5} {gigabytes / reading.ours:6.1f} "
        f"{gigabytes / floats.ours:8.1f} {floats.ratio:7.2f} "
        f"{gigabytes / integers.ours:6.1f} {integers.ratio:7.2f} {times(by_numpy):>8} "
        f"{times(by_gguf_py):>9} {flops:7.0f} {times(long):>8}"
    )


def times(comparison: Comparison | None) -> str:
    return "-" if comparison is None else f"{comparison.ratio:.1f}"


def random_rows(block_format: BlockFormat, rows: int) -> NDArray[np.uint8]:
    """Packed rows of ordinary weights: bytes at random where the blocks have fields for a scale, which get a
    small one.
    """
    rng = np.random.default_rng(1)
    if block_format.block_size == 1:
        return ggml.quantize(rng.standard_normal((rows, N), np.float32), block_format)
    packed = rng.integers(0, 256, (rows, block_format.row_bytes(N)), np.uint8)
    blocks = packed.view(block_format.dtype)
    for field in {"d", "dmin", "m"} & set(block_format.dtype.names or ()):
        blocks[field] = np.float16(0.01).view(np.uint16)
    if block_format.key == "mxfp4":
        blocks["e"] = 120
    return packed


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def every_row(
    vec_dot: Any, n: int, out: int, packed: int, row_bytes: int, activations: int, rows: int
) -> None:
    """Addresses are integers."""
    for row in range(rows):
        vec_dot(n, out + 4 * row, 0, packed + row * row_bytes, 0, activations, 0, 1)


def ggml_products(
    block_format: BlockFormat, packed: NDArray[np.uint8], x: NDArray[np.float32]
) -> Callable[[], None]:
    vec_dot = ggml.cpu_traits(block_format).vec_dot
    activations = ggml.activations(x, block_format)
    out = np.zeros(len(packed), np.float32)
    rows, row_bytes = packed.shape

    def work() -> None:
        every_row(vec_dot, N, out.ctypes.data, packed.ctypes.data, row_bytes, activations.ctypes.data, rows)

    return work


def against_numpy(
    block_format: BlockFormat,
    packed: NDArray[np.uint8],
    x: NDArray[np.float32],
    decode: Callable[[], NDArray[np.float32]] | None,
) -> Comparison | None:
    return (
        None
        if decode is None
        else compare(lambda: matmul(packed, block_format, x), lambda: x @ decode().T, 3, process_time)
    )


def gguf_py_decoder(
    block_format: BlockFormat, packed: NDArray[np.uint8]
) -> Callable[[], NDArray[np.float32]] | None:
    """None where gguf-py cannot decode the format."""
    try:
        kind = gguf.GGMLQuantizationType(block_format.id)
        gguf.dequantize(packed[:1], kind)
    except (ValueError, NotImplementedError):
        return None
    return lambda: gguf.dequantize(packed, kind)
