"""Checkpoints converted by gguflow and in llama.cpp's two steps (convert_hf_to_gguf.py, llama-quantize).

Small random checkpoints are made for every family; real ones can be named. The peer's first step keeps the
source's own number type; what it writes is then a source of ours too, for the second step alone. Every
metadata key must have the peer's type and value, every tensor the peer's type, shape and bytes, and the
default file name must be the peer's. Excused is only what docs/differences.md lists, and only for checkpoints
to which our own conversion says that it applies; a difference that is said to apply must be there.
Exit code 0 where all is equal, 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT

from file_differences import compare_files
from gguflow import models, sources
from steps import execute

PEER = ROOT / "tools" / "peer"
TINY = ROOT / "fixtures" / "models" / "tiny-py-llama"
TYPES = ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="*",
        type=Path,
        metavar="CHECKPOINT",
        help="real checkpoints to compare too; the peer must know their tokenizer",
    )
    parser.add_argument(
        "--llama-cpp",
        required=True,
        type=Path,
        metavar="DIR",
        help="llama.cpp's source tree, with convert_hf_to_gguf.py",
    )
    parser.add_argument(
        "--llama-quantize",
        required=True,
        type=Path,
        metavar="PATH",
        help="llama-quantize, built from it without FMA contraction",
    )
    parser.add_argument(
        "--python",
        required=True,
        type=Path,
        metavar="PATH",
        help="a Python with torch, transformers 5 and sentencepiece",
    )
    parser.add_argument("--types", default=",".join(TYPES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where temporary files go")
    parser.add_argument("--only-named", action="store_true", help="no random checkpoints")


def run(arguments: argparse.Namespace) -> int:
    n_differences = 0
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for checkpoint, pre in list(checkpoints(arguments, Path(work))):
            for what, difference in compare_checkpoint(arguments, checkpoint, pre, Path(work)):
                print(f"{checkpoint.name:30} {what:20} {difference}", flush=True)
                n_differences += difference != "equal"
    print(f"{n_differences} differences" if n_differences else "no differences")
    return 1 if n_differences else 0


def checkpoints(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[Path, str]]:
    """Each checkpoint with the pre-tokenizer that the peer is told, "-" for its own look-up. A random one's
    name ends in its pre-tokenizer.
    """
    yield from ((path.resolve(), "-") for path in arguments.checkpoints)
    if arguments.only_named:
        return
    made = work / "checkpoints"
    execute(arguments.python, PEER / "make_checkpoints.py", made, TINY / "tokenizer.model")
    yield TINY, "-"
    for path in sorted(made.iterdir()):
        yield (
            path,
            next(
                (pre for pre in ("llama-bpe", "smollm", "qwen2", "jina-v2-en") if path.name.endswith(pre)),
                "-",
            ),
        )


def compare_checkpoint(
    arguments: argparse.Namespace, checkpoint: Path, pre: str, work: Path
) -> Iterator[tuple[str, str]]:
    """(type, difference) pairs; a type without any gives one "equal"."""
    dtype, applied = own_type(checkpoint), models.load(sources.open_checkpoint(checkpoint)).differences
    steps = {side: work / side / checkpoint.name for side in ("peer", "ours")}
    for directory in steps.values():
        directory.mkdir(parents=True)
    execute(
        arguments.python,
        PEER / "convert.py",
        arguments.llama_cpp,
        pre,
        checkpoint,
        "--outfile",
        steps["peer"],
        "--outtype",
        dtype,
    )
    (intermediate,) = steps["peer"].iterdir()
    execute(sys.executable, "-m", "gguflow", "convert", checkpoint, "-t", dtype, "--quiet", cwd=steps["ours"])
    (default,) = steps["ours"].iterdir()
    names_differ = default.name != intermediate.name
    yield "name", f"{default.name}, not {intermediate.name}" if names_differ else "equal"
    for name in arguments.types.split(","):
        peer, ours = work / "peer.gguf", work / "ours.gguf"
        execute(arguments.llama_quantize, intermediate, peer, name.upper())
        for source, what, excused in ((checkpoint, name, applied), (intermediate, f"{name} from GGUF", ())):
            execute(
                sys.executable,
                "-m",
                "gguflow",
                "convert",
                source,
                "-o",
                ours,
                "-t",
                name,
                "--quiet",
                "--overwrite",
            )
            differences = list(compare_files(ours, peer, excused))
            yield from ((what, difference) for difference in differences or ["equal"])


def own_type(checkpoint: Path) -> str:
    """The number type of the checkpoint's matrices, as the peer's --outtype."""
    tensors = sources.open_checkpoint(checkpoint).tensors.values()
    formats = [tensor.format.key for tensor in tensors if tensor.format is not None and len(tensor.shape) > 1]
    return next(key for key in formats if key in ("f32", "f16", "bf16"))
