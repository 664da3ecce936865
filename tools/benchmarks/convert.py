"""The whole command against the two-step peer: convert_hf_to_gguf.py, then llama-quantize, on the same
checkpoint in the same run.

Prints seconds (warm page cache and warm kernels, on all threads and, in turns, on one; and cold: the source
dropped from the page cache, kernels compiled afresh), peak memory, and whether the two files hold the same
tensors. Make a checkpoint with tools/make_checkpoint. The peer comes from llama.cpp's source tree and a
llama-quantize built from it; without them only our own figures are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Seconds of wall time; peak anonymous and peak total resident memory in bytes, sampled."""

    seconds: float
    anonymous: int
    resident: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a checkpoint directory")
    parser.add_argument("--type", default="q4_k_m", help="a recipe (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="for both sides (default: all)"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, help="runs of ours, warm; the median counts (default: %(default)s)"
    )
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp's source tree: holds convert_hf_to_gguf.py")
    parser.add_argument("--llama-quantize", type=Path, help="llama-quantize, built")
    parser.add_argument(
        "--python", default=sys.executable, help="a Python with torch and transformers, for the peer"
    )
    parser.add_argument("--scratch", type=Path, help="where outputs go (default: a temporary directory)")


def run(arguments: argparse.Namespace) -> None:
    source_bytes = sum(path.stat().st_size for path in arguments.checkpoint.glob("*.safetensors"))
    print(
        f"{arguments.checkpoint}: {source_bytes / 1e9:.2f} GB, {arguments.type}, {arguments.threads} threads"
    )
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        ours = folder / "ours.gguf"
        command = [
            sys.executable,
            "-m",
            "gguflow",
            "convert",
            str(arguments.checkpoint),
            "-o",
            str(ours),
            "-t",
            arguments.type,
            "--quiet",
        ]

        def convert(threads: int = arguments.threads, cache: str | None = None) -> Run:
            """A conversion to a file that is not there yet."""
            ours.unlink(missing_ok=True)
            return measured(
                [*command, "--threads", str(threads)], {} if cache is None else {"GGUFLOW_CACHE_DIR": cache}
            )

        cold = _cold(arguments.checkpoint, lambda: convert(cache=str(folder / "kernels")))
        convert()
        pairs = [(convert(), convert(1)) for _ in range(arguments.repeat)]
        warm, alone = [run for run, _ in pairs], [run for _, run in pairs]
        _row("gguflow, cold", cold)
        _row(f"gguflow, warm (median of {arguments.repeat})", _median(warm))
        _row("gguflow, warm, one thread", _median(alone))
        gain = statistics.median(one.seconds / both.seconds for both, one in pairs)
        print(f"  {arguments.threads} threads over one: {gain:.2f}")
        _breakdown(arguments, ours)
        if arguments.llama_cpp and arguments.llama_quantize:
            _peer(arguments, folder, ours, _median(warm), cold)


def _breakdown(arguments: argparse.Namespace, output: Path) -> None:
    """Where the processor's time of a warm conversion goes, in this process, on one thread, and the machine's
    limits beside it.
    """
    import numpy as np

    import gguflow.container.output_file as writer
    from gguflow import conversion
    from gguflow.conversion import leaf_jobs
    from gguflow.models import reading

    spent: dict[str, float] = {}

    def timed(home: Any, name: str, label: str) -> None:
        inner = getattr(home, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return inner(*args, **kwargs)
            finally:
                spent[label] = spent.get(label, 0.0) + time.thread_time() - started

        setattr(home, name, outer)

    timed(reading, "decode", "read and decode to float32")
    timed(leaf_jobs, "first_non_finite", "look for NaN and Inf")
    timed(leaf_jobs, "encode", "quantize")
    timed(writer.OutputFile, "write", "write to the page cache")
    timed(leaf_jobs.LeafJob, "perform", "all leaves")
    started = time.process_time()
    prepared = conversion.prepare(arguments.checkpoint, output, type=arguments.type)
    planned = time.process_time() - started
    report = conversion.run(prepared, threads=1, overwrite=True)[0]
    whole = time.process_time() - started
    rest = spent.pop("all leaves") - sum(spent.values())
    print(f"  processor time of one thread: {whole:.2f} s for {report.n_weights / 1e6:.0f} M weights")
    shares = {"plan (headers, config, tokenizer)": planned, **spent, "digest, journal, Python": rest}
    shares["load kernels, flush, rename"] = whole - sum(shares.values())
    for label, seconds in shares.items():
        print(f"    {label:34} {seconds:7.2f} s  {100 * seconds / whole:5.1f} %")
    buffer = np.ones(1 << 26, np.uint8)
    target = np.zeros_like(buffer)
    started = time.perf_counter()
    np.copyto(target, buffer)
    copy = buffer.nbytes / (time.perf_counter() - started) / 1e9
    moved = (report.source_nbytes + report.nbytes) / 1e9
    bottleneck = max(shares, key=lambda label: shares[label])
    print(
        f"    a plain copy moves {copy:.1f} GB/s: the {moved:.2f} GB that are read and written need "
        f"{moved / copy:.2f} s"
    )
    print(f"    the bottleneck: {bottleneck}")


def _peer(arguments: argparse.Namespace, folder: Path, ours: Path, warm: Run, cold: Run) -> None:
    middle, theirs = folder / "middle.gguf", folder / "theirs.gguf"
    first = [
        arguments.python,
        str(arguments.llama_cpp / "convert_hf_to_gguf.py"),
        str(arguments.checkpoint),
        "--outtype",
        "bf16",
    ]
    first += ["--outfile", str(middle)]
    second = [str(arguments.llama_quantize), str(middle), str(theirs), arguments.type, str(arguments.threads)]

    def both() -> tuple[Run, Run]:
        for path in (middle, theirs):
            path.unlink(missing_ok=True)
        return measured(first, {}), measured(second, {})

    converted_cold, quantized_cold = _cold(arguments.checkpoint, both)
    converted, quantized = both()
    _row("convert_hf_to_gguf.py, warm", converted)
    _row("llama-quantize, warm", quantized)
    peer, peer_cold = converted.seconds + quantized.seconds, converted_cold.seconds + quantized_cold.seconds
    print(f"ratio warm {peer / warm.seconds:.1f} ({peer:.1f} s / {warm.seconds:.2f} s)")
    print(f"ratio cold {peer_cold / cold.seconds:.1f} ({peer_cold:.1f} s / {cold.seconds:.2f} s)")
    print(f"same tensors: {_same_tensors(ours, theirs)}")


def measured(command: list[str], environment: dict[str, str]) -> Run:
    """Run a command and watch its memory. Raises CalledProcessError with its output where it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        anonymous = resident = 0
        while process.poll() is None:
            anonymous, resident = (
                max(a, b) for a, b in zip((anonymous, resident), _memory(process.pid), strict=True)
            )
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, log.read()[-2000:])
    return Run(seconds, anonymous, resident)


def _memory(pid: int) -> tuple[int, int]:
    """Anonymous and all resident bytes of a process, from /proc; zeros where there is none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return tuple(int(fields.get(name, "0").split()[0]) * 1024 for name in ("RssAnon", "VmRSS"))  # type: ignore[return-value]


def _cold(checkpoint: Path, action: Callable[[], T]) -> T:
    """Do it with the source's pages dropped from the page cache (what is dirty is written first)."""
    os.sync()
    for path in checkpoint.glob("*.safetensors"):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    return action()


def _same_tensors(ours: Path, theirs: Path) -> str:
    """How many tensors have the same name, type, shape and bytes in two GGUF files."""
    import numpy as np
    from gguf import GGUFReader

    a, b = ({t.name: t for t in GGUFReader(path).tensors} for path in (ours, theirs))
    same = sum(
        name in b
        and t.tensor_type == b[name].tensor_type
        and list(t.shape) == list(b[name].shape)
        and np.array_equal(t.data, b[name].data)
        for name, t in a.items()
    )
    return f"{same} of {len(a.keys() | b.keys())}"


def _row(name: str, run: Run) -> None:
    print(
        f"  {name:32} {run.seconds:8.2f} s   anonymous {run.anonymous / 2**20:7.0f} MiB   resident "
        f"{run.resident / 2**20:7.0f} MiB"
    )


def _median(runs: Sequence[Run]) -> Run:
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
