"""Better scales against ggml's encoder, and error feedback against matrix products, each in one run.

First table: for each format the signal to noise of Gaussian weights after ggml's encoder and after `search`
(and where the format takes importance, after ggml's with ones), in dB; `search` in M weights/s of one thread,
and as a multiple of the speed of ggml's own encoder.

Second table: feedback on one thread, in M weights/s; the rate of the products of matrices that it cannot do
without, as a share of what the machine's BLAS reaches with large matrices on one thread; the form of the
second moments, relative to plain rounding. Counted are, for each weight of a row of n columns, n operations
in feedback, 2 n for what descent starts from, and 2 n in each of its passes.

Times are the processor's, since others may be at work too.
"""

from __future__ import annotations

import argparse
import statistics
from time import process_time

import numpy as np
from numpy.typing import NDArray

from benchmarks.formats import ggml_encoder
from benchmarks.timing import compare, seconds
from gguflow.blocks import by_name
from gguflow.fidelity import feedback, search
from gguflow.fidelity.grids import GRIDS
from gguflow.fidelity.linear_algebra import description, one_thread
from gguflow.fidelity.moments import Factor, factor
from gguflow.quantization import dequantize, quantize
from testing import ggml

ROW = 2048
REPETITIONS = 5
PRODUCT = (4096, 4096, 512)
"""Of the matrices that say how fast BLAS is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="NAMES", help="comma-separated format names; default: all")
    parser.add_argument(
        "--weights", metavar="N", type=int, default=1 << 21, help="weights per call of search (default: 2 Mi)"
    )
    parser.add_argument(
        "--columns", metavar="N", type=int, nargs="*", default=[4096], help="for feedback (default: 4096)"
    )
    parser.add_argument("--large", action="store_true", help="feedback at 14,336 columns, too: minutes, 3 GB")
    parser.add_argument("--rows", metavar="N", type=int, default=256, help="for feedback (default: 256)")
    parser.add_argument("--feedback-formats", metavar="NAMES", default="q3_k,q4_k,q4_0")


def run(arguments: argparse.Namespace) -> None:
    keys = arguments.only.lower().split(",") if arguments.only else list(GRIDS)
    x = np.random.default_rng(1).standard_normal((max(arguments.weights // ROW, 1), ROW), np.float32)
    x *= np.float32(0.02)
    print(f"{'':8} {'ggml dB':>8} {'ones':>7} {'search':>7} {'gain':>6}   {'M/s':>6} {'x ggml':>7}")
    for key in keys:
        print(search_line(key, x), flush=True)
    for n in [*arguments.columns, *([14336] if arguments.large else [])]:
        bench_feedback(n, arguments.rows, arguments.feedback_formats.lower().split(","))


def snr(x: NDArray[np.float32], packed: NDArray[np.uint8], key: str) -> float:
    """In dB."""
    noise = np.square(x - dequantize(packed, key), dtype=np.float64).sum()
    return float(10 * np.log10(np.square(x, dtype=np.float64).sum() / noise))


def search_line(key: str, x: NDArray[np.float32]) -> str:
    """One row of the first table."""
    block_format = by_name(key)
    ours = snr(x, search.encode(x, key), key)
    theirs = snr(x, quantize(x, key), key)  # ggml's bytes
    ones = np.ones(x.shape[1], np.float32)
    with_ones = (
        f"{snr(x, quantize(x, key, ones), key):7.2f}"
        if block_format.importance == "optional"
        else f"{'-':>7}"
    )
    ggml.library().ggml_quantize_init(block_format.id)
    speed = compare(
        lambda: search.encode(x, key, threads=1), ggml_encoder(block_format, x, None), clock=process_time
    )
    return (
        f"{block_format.name:8} {theirs:8.2f} {with_ones} {ours:7.2f} {ours - theirs:+6.2f}   "
        f"{x.size / speed.ours / 1e6:6.1f} {speed.ratio:7.3f}"
    )


def moments(n: int) -> NDArray[np.float32]:
    """Of inputs that a sixteenth as many causes make, and noise."""
    rng = np.random.default_rng(2)
    causes = rng.standard_normal((n // 16, n), np.float32)
    found = causes.T @ causes
    found[np.diag_indices(n)] *= np.float32(1.1)
    return found


def bench_feedback(n: int, rows: int, keys: list[str]) -> None:
    """The second table, of one number of columns."""
    h = moments(n)
    start = process_time()
    known = factor(h, threads=1)
    print(f"\n{n} columns, {rows} rows, {description()}; factor {process_time() - start:.1f} s")
    print(f"{'':8} {'passes':>6} {'M/s':>6} {'GEMM':>6}   {'left of plain':>13}")
    x = np.random.default_rng(3).standard_normal((rows, n), np.float32) * np.float32(0.02)
    for key in keys:
        for passes in (0, feedback.PASSES):
            print(feedback_line(key, x, known, passes), flush=True)


def feedback_line(key: str, x: NDArray[np.float32], known: Factor, passes: int) -> str:
    n = known.n
    a, b = np.ones(PRODUCT[:2], np.float32), np.ones(PRODUCT[1:], np.float32)
    product_operations = 2 * int(np.prod(PRODUCT, dtype=np.int64))

    def ours() -> object:
        return feedback.quantize_with_moments(x, known, key, passes=passes, row_gain="never", threads=1)

    def product() -> object:
        with one_thread():
            return a @ b

    ours()
    product()
    operations = x.size * n * (1 if passes == 0 else 3 + 2 * passes)
    pairs = [(seconds(ours, process_time), seconds(product, process_time)) for _ in range(REPETITIONS)]
    share = statistics.median(operations / mine / (product_operations / theirs) for mine, theirs in pairs)
    report = feedback.quantize_with_moments(
        x, known, key, passes=passes, row_gain="never", measure=True
    ).report
    left = report.final / report.plain if report.plain else 1.0
    speed = x.size / statistics.median(mine for mine, _ in pairs) / 1e6
    return f"{by_name(key).name:8} {passes:6} {speed:6.2f} {100 * share:5.0f} %   {left:13.3f}"
