"""Let llama.cpp (the xllamacpp wheel) run what gguflow and the peer make of recipes' checkpoints.

Both files have F32 weights; the peer's is the one that `record --keep` left. Both must be answered alike, to
the last bit: the tokens of a text and those that follow, an embedding or scores, or llama.cpp's reason for
refusing the file. Only tokenizer.ggml.pre is made equal first, since the peer knows real vocabularies only,
and both get a neutral name. Exit code 1 where an answer differs and no row of docs/differences.md applies.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from gguflow import models
from gguflow.blocks import block_sizes
from gguflow.container.reader import read_header
from testing.golden.answers import ANSWERS, PRE, Answers, Row, ask_about
from testing.golden.conversion import converted, read
from testing.golden.packed import class_of
from testing.golden.recipes import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "classes", nargs="*", metavar="CLASS", help="(default: every class that both sides have)"
    )
    parser.add_argument("--missing", action="store_true", help="only those without an answer in the file")
    parser.add_argument(
        "--write", action="store_true", help="put the answers into fixtures/llama_answers.json"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print tokens and numbers")


def run(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.records
    kept = Answers.read(ANSWERS)
    names = arguments.classes or sorted(
        path.name.removesuffix(".gguf")
        for path in (directory / "files").glob("*.gguf")
        if class_of(path.name.removesuffix(".gguf")) in models.architectures()
    )
    if arguments.missing:
        names = [name for name in names if name not in kept.rows]
    rows: dict[str, Row] = {}
    n_wrong = 0
    for name in names:
        recipe = Recipe.parse((directory / "recipes" / f"{name}.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as work:
            try:
                row, difference = _row(recipe, directory / "files" / f"{name}.gguf", Path(work))
            except Exception as error:
                row, difference = None, f"{type(error).__name__}: {error}"
        if row is None:
            print(f"FAIL {name}: {difference}", flush=True)
            n_wrong += 1
            continue
        rows[name] = row
        said = " ".join(word for word in (row.expected.kind, row.expected.message) if word)
        print(f"{'other' if row.ours else 'same'} {name}: {said}{difference}", flush=True)
        if arguments.verbose:
            print(f"  {row.expected}")
    n_refused = sum(row.expected.kind == "refused" for row in rows.values())
    print(f"{len(rows) - n_refused} of {len(names)} run, llama.cpp refuses {n_refused}, {n_wrong} differ")
    if arguments.write:
        replace(kept, xllamacpp=version("xllamacpp"), rows={**kept.rows, **rows}).write(ANSWERS)
    return 1 if n_wrong else 0


def _row(recipe: Recipe, kept: Path, work: Path) -> tuple[Row | None, str]:
    """The answers, and how ours differs on purpose; or None, and how it differs."""
    ours, applied = converted(recipe, "F32", work)
    pre = read_header(ours, block_sizes).metadata.get(PRE)
    peer = Path(shutil.copy(kept, work / "peer.gguf"))
    a, b = ask_about(ours), ask_about(peer, pre)
    difference = a.differences(b)
    if not difference or (a.is_near(b) and _differ_by_an_ulp(ours, peer)):
        return Row(b), ""
    if not applied:
        return None, difference
    return Row(b, a), f"; on purpose ({', '.join(applied)}) not {b.kind} {b.message}"


def _differ_by_an_ulp(ours: Path, peer: Path) -> bool:
    """Whether the files have other bytes only where tensors are held to one unit in the last place."""
    a, b = read(ours).tensors, read(peer).tensors
    other = [name for name in a if name not in b or a[name].digest != b[name].digest]
    return bool(other) and all(a[name].content is not None for name in other)
