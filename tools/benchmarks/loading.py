"""Opening a model with a large vocabulary: seconds and memory until the first tensor is there, against
gguf-py's reader on the same file.

150,000 tokens and 280,000 merges. Each measurement is a new process that has imported what it needs; the
median of the repetitions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.validate import write_vocabulary

OURS = """
import sys, time, json, gguflow
gguflow.open(sys.argv[2]).close()
{resident}
before, start = resident(), time.perf_counter()
model = gguflow.open(sys.argv[1])
opened = time.perf_counter() - start
model["t"].raw
print(json.dumps([opened, time.perf_counter() - start, resident() - before]))
"""
THEIRS = """
import sys, time, json, gguf
gguf.GGUFReader(sys.argv[2])
{resident}
before, start = resident(), time.perf_counter()
reader = gguf.GGUFReader(sys.argv[1])
opened = time.perf_counter() - start
reader.tensors[0].data
print(json.dumps([opened, time.perf_counter() - start, resident() - before]))
"""
RESIDENT = "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=int, default=3)


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        large, small = Path(scratch) / "large.gguf", Path(scratch) / "small.gguf"
        write_vocabulary(large)
        write_vocabulary(small, n_tokens=100, n_merges=100)
        ours, theirs = (_measured(code, large, small, arguments.repeat) for code in (OURS, THEIRS))
    print("                  open        with first tensor   memory grows by")
    for name, (opened, touched, grown) in (("gguflow.open", ours), ("GGUFReader", theirs)):
        print(f"{name:14} {opened * 1000:9.1f} ms {touched * 1000:15.1f} ms {grown / 2**20:15.1f} MiB")
    print(f"ratio          {theirs[0] / ours[0]:9.0f}    {theirs[1] / ours[1]:15.0f}")


def _measured(code: str, large: Path, small: Path, repeat: int) -> tuple[float, float, float]:
    """Seconds to open, seconds to the first tensor, bytes of resident memory more than before."""
    command = [sys.executable, "-c", code.format(resident=RESIDENT), str(large), str(small)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeat)
    ]
    opened, touched, grown = (statistics.median(values) for values in zip(*runs, strict=True))
    return opened, touched, grown
