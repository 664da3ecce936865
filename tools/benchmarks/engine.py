"""What the engine's own Python costs: a conversion whose kernels only sleep, on many threads, old and new.

Kernels are replaced by sleeps of their true length, which release the interpreter's lock as kernels do;
writes, digests, proofs and flushes are dropped; the source is a sparse file that nobody reads. What is left
is the loop, and it bounds how many threads are of use. --old names another tree of the sources: both are run
in turns, each in a process of its own. Printed: weights a second, as a part of what so many threads could do,
and the Python seconds of a leaf that this bound means.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from repository import ROOT

LEAF = 1 << 20

CHILD = """
import ctypes, importlib, json, sys, time
from pathlib import Path

source, kind, folder = sys.argv[1], sys.argv[2], sys.argv[5]
rate, threads = float(sys.argv[3]), int(sys.argv[4])
ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK: sleeps end in time

from gguflow import conversion, kernels, platform, quantization


class Kernels:
    @staticmethod
    def dequantize_blocks(blocks, out):
        time.sleep(0.1 * out.size / rate)

    @staticmethod
    def quantize_blocks(x, out):
        time.sleep(0.9 * x.size / rate)
        return x.size


class Digest:
    def update(self, data):
        pass

    def digest(self):
        return bytes(16)


def first(*names):
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise SystemExit(f"none of {names}")


kernels.load = lambda block_format: Kernels
file = first("gguflow.container.output_file", "gguflow.container.writer")
file.OutputFile.write = lambda self, data, offset: None
file.OutputFile.begin_flush = lambda self, nbytes, offset: None
platform.advise_use = lambda *place, in_large_pages=True: None  # would fill the page cache with zeros
platform.preallocate_anew = lambda fd, nbytes: None
platform.sync_file = lambda fd: None
leaves = first("gguflow.conversion.leaf_jobs", "gguflow.leaves")
leaves.new_leaf_digest = Digest
leaves.look = leaves.prove = lambda *arguments, **options: None  # they would judge buffers nobody filled
prepared = conversion.prepare(source, Path(folder, f"{kind}.gguf"), type=kind, architecture="llama")
quantization.kernels_digest()  # loads Numba, once
started, cpu_started = time.perf_counter(), time.process_time()
report = conversion.run(prepared, threads=threads, overwrite=True, memory_limit=1 << 40)[0]
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
print(json.dumps({"seconds": seconds, "weights": report.n_weights, "cpu": cpu}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--old", type=Path, metavar="DIR", help="a checkout of the code to compare with")
    parser.add_argument(
        "--weights", type=int, default=1 << 34, metavar="N", help="of the model, at most (default: 2**34)"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each (default: 3)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2, 8, 16, 64], metavar="N", help="threads to try"
    )


RATES = {"q4_k": 150e6, "q8_0": 1000e6}
"""Weights a second that one thread encodes, as `bench formats` measured them."""


def run(arguments: argparse.Namespace) -> None:
    trees = {"new": ROOT / "src"}
    if arguments.old:
        trees["old"] = arguments.old / "src"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, rate in RATES.items():
            print(f"{kind}: {rate / 1e6:.0f} M weights/s a thread")
            for threads in arguments.threads:
                _measure(arguments, trees, folder, kind, rate, threads)


def _measure(
    arguments: argparse.Namespace,
    trees: dict[str, Path],
    folder: Path,
    kind: str,
    rate: float,
    threads: int,
) -> None:
    """Runs in turns, each of about the same length whatever the threads."""
    n = min(arguments.weights, int(rate * threads)) // (64 * LEAF) * 64 * LEAF or 64 * LEAF
    source = _sparse(folder / f"{n}.safetensors", n)
    speeds: dict[str, list[float]] = {tree: [] for tree in trees}
    for _ in range(arguments.repeat):
        for tree, path in trees.items():
            speeds[tree].append(_child(path, source, kind, rate, threads, folder))
    source.unlink()
    parts = []
    for tree, found in speeds.items():
        speed = statistics.median(found)
        parts.append(
            f"{tree} {speed / 1e9:6.2f} G weights/s, {speed / rate / threads:4.2f} of {threads} threads, "
            f"{1e6 * LEAF / speed:6.0f} us a leaf"
        )
    if len(speeds) > 1:
        ratios = [a / b for a, b in zip(speeds["new"], speeds["old"], strict=True)]
        parts.append(f"new/old {statistics.median(ratios):.2f}")
    print(f"  {threads:3} threads: " + "; ".join(parts), flush=True)


def _sparse(path: Path, n_weights: int) -> Path:
    """A safetensors file of BF16 tensors of 2**26 weights that takes no room on the disk."""
    each = 64 * LEAF
    header = {
        f"blk.{i}.ffn_up.weight": {
            "dtype": "BF16",
            "shape": [each // 4096, 4096],
            "data_offsets": [2 * each * i, 2 * each * (i + 1)],
        }
        for i in range(n_weights // each)
    }
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2 * n_weights)
    return path


def _child(tree: Path, source: Path, kind: str, rate: float, threads: int, folder: Path) -> float:
    """Weights a second of one conversion."""
    command = [sys.executable, "-c", CHILD, str(source), kind, str(rate), str(threads), str(folder)]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["weights"] / found["seconds"])
