"""Encode and decode speed of every block format against ggml, one thread each, same input, in turns.

Columns: encode in M weights/s and as a multiple of ggml's speed; the speed of two threads over one; decode in
M weights/s, in GB/s of float32 written beside what a plain fill of the same memory reaches, as a multiple of
ggml's speed and of gguf-py's. Medians of 5 (two threads: 21, against gguf-py: 3). Both sides write to memory
that is there already (gguf-py cannot). Times are the processor's, since others may be at work too; those of
two threads are the clock's. Formats that cannot do without importance get random importance, here and there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import process_time

import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Comparison, compare, seconds
from gguflow.blocks import FORMATS, BlockFormat, by_name
from gguflow.quantization import dequantize, quantize
from testing import ggml

ROW = 2048  # weights in a row; every block size divides it
SECONDS_PER_CALL = 0.7  # ggml's slow encoders get less to do
SECONDS_PER_TWO_THREADS = 0.3  # of one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="NAMES", help="comma-separated format names; default: all")
    parser.add_argument(
        "--importance", action="store_true", help="encode with importance wherever the format takes it"
    )
    parser.add_argument(
        "--weights", metavar="N", type=int, default=1 << 24, help="weights per call, at most (default: 16 Mi)"
    )


def run(arguments: argparse.Namespace) -> None:
    chosen = (
        [by_name(name) for name in arguments.only.split(",")] if arguments.only else list(FORMATS.values())
    )
    rows = max(arguments.weights // ROW, 1)
    x = (np.random.default_rng(1).standard_normal((rows, ROW), np.float32)) * np.float32(0.02)
    print(f"{rows * ROW / 1e6:.1f} M weights; a plain fill writes {fill_bandwidth(x.size):.1f} GB/s")
    print(
        f"{'':8} {'encode':>8} {'x ggml':>7} {'2 thr.':>7}   {'decode':>8} {'GB/s':>6} {'x ggml':>7} "
        f"{'x gguf-py':>9}"
    )
    for block_format in chosen:
        if block_format.number_type is None or block_format.key == "f16":
            print(line(block_format, x, arguments.importance), flush=True)


def line(block_format: BlockFormat, x: NDArray[np.float32], with_importance: bool) -> str:
    """One row of the table."""
    weighted = block_format.importance == "required" or (
        with_importance and block_format.importance == "optional"
    )
    importance = np.random.default_rng(2).random(ROW, np.float32) if weighted else None
    encoding, rows, two_threads = bench_encode(block_format, x, importance)
    packed = np.resize(quantize(x[:64], block_format, importance), (len(x), block_format.row_bytes(ROW)))
    decoding, peer_ratio = bench_decode(block_format, packed)
    encoded, decoded = rows * ROW / encoding.ours / 1e6, x.size / decoding.ours / 1e6
    against_peer = "-" if peer_ratio is None else f"{peer_ratio:.1f}"
    return (
        f"{block_format.name:8} {encoded:8.0f} {encoding.ratio:7.2f} {two_threads:7.2f}   "
        f"{decoded:8.0f} {decoded * 4e-3:6.1f} {decoding.ratio:7.2f} {against_peer:>9}"
    )


def bench_encode(
    block_format: BlockFormat, x: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> tuple[Comparison, int, float]:
    """The comparison, the rows that it ran on, and the speed of two threads over one."""
    ggml.library().ggml_quantize_init(block_format.id)
    sample = ggml_encoder(block_format, x[:16], importance)
    sample()
    rows = int(np.clip(SECONDS_PER_CALL / seconds(sample, process_time) * 16, 64, len(x)))
    part = x[:rows]
    out = np.empty((rows, block_format.row_bytes(ROW)), np.uint8)

    def ours() -> None:
        quantize(part, block_format, importance, out=out)

    encoding = compare(ours, ggml_encoder(block_format, part, importance), clock=process_time)
    enough = int(min(len(x), rows * SECONDS_PER_TWO_THREADS / encoding.ours))
    return encoding, rows, bench_two_threads(block_format, x[:enough], importance)


def bench_two_threads(
    block_format: BlockFormat, x: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> float:
    """The speed of two threads over one, by the clock on the wall."""
    out = np.empty((len(x), block_format.row_bytes(ROW)), np.uint8)

    def ours(threads: int) -> object:
        return quantize(x, block_format, importance, threads=threads, out=out)

    return compare(lambda: ours(2), lambda: ours(1), 21).ratio


def bench_decode(block_format: BlockFormat, packed: NDArray[np.uint8]) -> tuple[Comparison, float | None]:
    """Against ggml, and how many times gguf-py's speed; None where gguf-py cannot decode the format."""
    out = aligned_empty((len(packed), ROW))
    to_float = ggml.library().ggml_get_type_traits(block_format.id).contents.to_float
    ours, theirs = (
        (lambda: dequantize(packed, block_format, out=out)),
        (lambda: to_float(packed.ctypes.data, out.ctypes.data, out.size)),
    )
    decoding = compare(ours, theirs, clock=process_time)
    peer = gguf_py_decoder(block_format, packed)
    return decoding, None if peer is None else compare(ours, peer, 3, process_time).ratio


def ggml_encoder(
    block_format: BlockFormat, x: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> Callable[[], object]:
    out = np.zeros((len(x), block_format.row_bytes(ROW)), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    return lambda: ggml.library().ggml_quantize_chunk(
        block_format.id, x.ctypes.data, out.ctypes.data, 0, *x.shape, weights
    )


def gguf_py_decoder(block_format: BlockFormat, packed: NDArray[np.uint8]) -> Callable[[], object] | None:
    try:
        kind = gguf.GGMLQuantizationType(block_format.id)
        gguf.dequantize(packed[:1], kind)
    except (ValueError, NotImplementedError):
        return None
    return lambda: gguf.dequantize(packed, kind)


def aligned_empty(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32 on a cache line's boundary, as allocators of tensors give it: NumPy's own 16 bytes cost a wide
    store 10 % of its speed.
    """
    buffer = np.empty(int(np.prod(shape)) + 16, np.float32)
    start = -buffer.ctypes.data % 64 // 4
    return buffer[start : start + int(np.prod(shape))].reshape(shape)


def fill_bandwidth(size: int) -> float:
    """GB/s of np.fill on `size` float32, memory already mapped: the best of some."""
    out = np.zeros(size, np.float32)
    out.fill(1)
    return out.nbytes / min(seconds(lambda: out.fill(2), process_time) for _ in range(5)) / 1e9
