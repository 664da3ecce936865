"""What the first call costs: compiling what a conversion needs, and starting when it is compiled already.

Cold: an empty kernel cache. Warm: the cache of the run before. Each is a new process; seconds of wall time,
the median of the repetitions.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.convert import measured

TINY = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "tiny-py-llama"
ONE_BLOCK = "import numpy, gguflow; gguflow.quantize(numpy.ones(256, numpy.float32), 'q4_k')"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--type", default="q4_k_m", help="what the fixture is converted to (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=3)


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        convert = [
            sys.executable,
            "-m",
            "gguflow",
            "convert",
            str(TINY),
            "-t",
            arguments.type,
            "-o",
            f"{scratch}/out.gguf",
            "--overwrite",
            "-q",
        ]
        for name, command in (
            (f"convert the fixture to {arguments.type}", convert),
            ("quantize one block", [sys.executable, "-c", ONE_BLOCK]),
            ("inspect the result", [sys.executable, "-m", "gguflow", "inspect", f"{scratch}/out.gguf"]),
        ):
            cold, warm = [], []
            for i in range(arguments.repeat):
                environment = {"GGUFLOW_CACHE_DIR": f"{scratch}/kernels-{name}-{i}"}
                cold.append(measured(command, environment).seconds)
                warm.append(measured(command, environment).seconds)
            print(f"{name:34} cold {statistics.median(cold):6.2f} s   warm {statistics.median(warm):6.2f} s")
