"""Vectors appended to a row store, one by one and in batches: rows per second, against NumPy that makes F16
of them and writes them to a plain file.

Nothing is flushed to the medium meanwhile; what that costs is in the last column, for a row appended and
flushed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import compare, seconds
from gguflow.rows import RowStore

Floats = NDArray[np.float32]
BATCHES = (1, 16, 256)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--formats", default="q8_0,int8_row,affine4_b64", help="comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--width", type=int, default=1024, metavar="N", help="numbers in a row (default: %(default)s)"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=4096,
        metavar="N",
        help="to append in one measurement (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    vectors = np.random.default_rng(0).standard_normal((arguments.rows, arguments.width)).astype(np.float32)
    print(
        f"rows of {arguments.width} float32 per second, and how many times the speed of F16 in a plain file"
    )
    print(
        f"{'format':14}"
        + "".join(f"{f'by {batch}':>18}" for batch in BATCHES)
        + f"{'decode':>14}{'append and flush':>20}"
    )
    for name in arguments.formats.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            print(measured(name, vectors, Path(scratch)), flush=True)


def measured(name: str, vectors: Floats, scratch: Path) -> str:
    """A line of the table."""
    line = f"{name:14}"
    with (
        RowStore(scratch / "rows.gguf", name, vectors.shape[1]) as store,
        (scratch / "plain").open("w+b", buffering=0) as plain,
    ):
        for batch in BATCHES:
            found = compare(
                in_batches(store.append, vectors, batch), in_batches(halves(plain), vectors, batch), 3
            )
            line += f"{len(vectors) / found.ours:11,.0f} ({found.ratio:.2f})"
        store.flush()
        decoded = statistics.median(seconds(lambda: store.rows(0, len(vectors))) for _ in range(3))

        def append_and_flush() -> None:
            store.append(vectors[0])
            store.flush()

        flushed = statistics.median(seconds(append_and_flush) for _ in range(30))
    return line + f"{len(vectors) / decoded:14,.0f}{flushed * 1000:17.2f} ms"


def in_batches(work: Callable[[Floats], object], vectors: Floats, batch: int) -> Callable[[], None]:
    def all_of_them() -> None:
        for first in range(0, len(vectors), batch):
            work(vectors[first : first + batch])

    return all_of_them


def halves(plain: io.FileIO) -> Callable[[Floats], object]:
    return lambda x: plain.write(x.astype(np.float16).data)
