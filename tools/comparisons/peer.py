"""Checkpoints converted by gguflow and in llama.cpp's two steps (convert_hf_to_gguf.py, llama-quantize).

Where classes are named (LlamaForCausalLM; CLASS+VARIANT), it is the first step alone, of the tiny checkpoints
that golden recipes describe, in BF16, F16 and F32; the peer's look-up of tokenizers, which knows real
vocabularies only, is left out. Otherwise:

Small random checkpoints are made for every family; real ones can be named. The peer's first step keeps the
source's own number type; what it writes is then a source of ours too, for the second step alone. Every
metadata key must have the peer's type and value, every tensor the peer's type, shape and bytes, and the
default file name must be the peer's. Excused is only what docs/differences.md lists, and only for checkpoints
to which our own conversion says that it applies; a difference that is said to apply must be there.
Exit code 0 where all is equal, 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT

from file_differences import compare_files
from gguflow import models, sources
from goldens.live import compare_classes, recipe_of
from goldens.record import unpacked
from steps import execute
from testing.golden.packed import Packed
from testing.golden.recipes import Recipe

PEER = ROOT / "tools" / "peer"
TINY = ROOT / "fixtures" / "models" / "tiny-py-llama"
TYPES = ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="*",
        metavar="CLASS or CHECKPOINT",
        help="classes; or real checkpoints to compare too, whose tokenizer the peer must know",
    )
    parser.add_argument(
        "--llama-cpp",
        type=Path,
        metavar="DIR",
        help="llama.cpp's source tree, with convert_hf_to_gguf.py",
    )
    parser.add_argument(
        "--sdist",
        type=Path,
        metavar="FILE",
        default=os.environ.get("GGUFLOW_PEER_SDIST"),
        help="for classes, instead of --llama-cpp: source archive of llama-cpp-python, with llama.cpp inside "
        "(default: $GGUFLOW_PEER_SDIST)",
    )
    parser.add_argument(
        "--llama-quantize",
        type=Path,
        metavar="PATH",
        help="llama-quantize, built from it without FMA contraction; classes do not need it",
    )
    parser.add_argument(
        "--python",
        type=Path,
        action="append",
        metavar="PATH",
        help="a Python with torch, transformers 5 and sentencepiece; for classes it may be repeated: each "
        "does the recipes of its version of transformers (default: $GGUFLOW_PEER_PYTHON, colons between)",
    )
    parser.add_argument(
        "--records",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("GGUFLOW_GOLDEN", ROOT / "build" / "golden")),
        help="where recipes/ are that fixtures/golden.zip does not have, and where the archive is unpacked "
        "(default: $GGUFLOW_GOLDEN, else build/golden)",
    )
    parser.add_argument("--types", default=",".join(TYPES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where temporary files go")
    parser.add_argument("--only-named", action="store_true", help="no random checkpoints")


def run(arguments: argparse.Namespace) -> int:
    said = os.environ.get("GGUFLOW_PEER_PYTHON", "")
    pythons = arguments.python or [Path(path) for path in said.split(os.pathsep) if path]
    if not pythons:
        sys.exit("peer: --python is needed")
    packed, named = Packed(), arguments.checkpoints
    recipes = {name: recipe_of(name, arguments.records, packed) for name in named if not Path(name).exists()}
    if unknown := [name for name, recipe in recipes.items() if recipe is None]:
        sys.exit(f"peer: neither a checkpoint nor a class with a recipe: {', '.join(unknown)}")
    found = {name: recipe for name, recipe in recipes.items() if recipe is not None}
    if found and len(found) < len(set(named)):
        sys.exit("peer: classes and checkpoints are compared in different ways; name one kind")
    if found:
        return run_classes(found, pythons, arguments)
    if arguments.llama_cpp is None or arguments.llama_quantize is None:
        sys.exit("peer: checkpoints need --llama-cpp and --llama-quantize")
    arguments.checkpoints, arguments.python = [Path(name) for name in named], pythons[0]
    n_differences = 0
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for checkpoint, pre in list(checkpoints(arguments, Path(work))):
            for what, difference in compare_checkpoint(arguments, checkpoint, pre, Path(work)):
                print(f"{checkpoint.name:30} {what:20} {difference}", flush=True)
                n_differences += difference != "equal"
    print(f"{n_differences} differences" if n_differences else "no differences")
    return 1 if n_differences else 0


def run_classes(recipes: dict[str, Recipe], pythons: list[Path], arguments: argparse.Namespace) -> int:
    """Compares golden recipes.

    recipes: by name.
    pythons: the peer's.
    arguments: of the command line.
    """
    if arguments.llama_cpp is not None:
        tree = arguments.llama_cpp
    elif arguments.sdist is not None:
        arguments.records.mkdir(parents=True, exist_ok=True)
        tree, _ = unpacked(Path(arguments.sdist), arguments.records)
    else:
        sys.exit("peer: classes need --sdist or --llama-cpp")
    n_differences = 0
    for name, dtype, difference in compare_classes(recipes, tree, pythons, arguments.work):
        print(f"{name:30} {dtype:5} {difference}", flush=True)
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
