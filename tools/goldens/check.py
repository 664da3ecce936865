"""Convert recipes' checkpoints with gguflow, and say what differs from the records.

A line for each class and number type: PASS, or FAIL with every key and tensor that no row of
docs/differences.md explains. With the peer's own file beside the record (`record --keep`), -v says how the
numbers of a tensor differ.
"""

from __future__ import annotations

import argparse
import tempfile
import traceback
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import block_sizes
from gguflow.container.reader import map_file, read_header
from gguflow.errors import GguflowError
from testing.golden.contents import FLOATS
from testing.golden.conversion import unexplained_differences
from testing.golden.packed import Record
from testing.golden.recipes import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="(default: every class with a record)")
    parser.add_argument("--dtype", choices=FLOATS, action="append", help="(default: all of them)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say how values differ, and tracebacks")


def run(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.records
    names = arguments.classes or sorted(
        path.name.removesuffix(".json") for path in (directory / "records").glob("*.json")
    )
    n_passed = 0
    for name in names:
        recipe = Recipe.parse((directory / "recipes" / f"{name}.json").read_text(encoding="utf-8"))
        record = Record.parse((directory / "records" / f"{name}.json").read_text(encoding="utf-8"))
        passed = [
            _check(name, recipe, record, dtype, directory / "files" / f"{name}.gguf", arguments.verbose)
            for dtype in arguments.dtype or FLOATS
        ]
        n_passed += all(passed)
    print(f"{n_passed} of {len(names)} classes convert equal")
    return 0 if n_passed == len(names) else 1


def _check(name: str, recipe: Recipe, record: Record, dtype: str, kept: Path, verbose: bool) -> bool:
    with tempfile.TemporaryDirectory() as work:
        try:
            found, output = unexplained_differences(recipe, dtype, record.files[dtype], Path(work))
        except Exception as error:
            print(f"FAIL {name} {dtype}: {type(error).__name__}: {error}", flush=True)
            if verbose and not isinstance(error, GguflowError):
                traceback.print_exc()
            return False
        print(f"{'FAIL' if found else 'PASS'} {name} {dtype}", flush=True)
        for where, difference in found.items():
            more = _how(where, output, kept) if verbose and dtype == "F32" and kept.exists() else ""
            print(f"  {where}: {difference}{more}")
        return not found


def _how(name: str, ours: Path, peer: Path) -> str:
    """In which way the numbers of an F32 tensor differ."""
    a, b = (_numbers(path, name) for path in (ours, peer))
    if a is None or b is None or a.shape != b.shape:
        return ""
    wrong = np.argwhere(a.view(np.uint32) != b.view(np.uint32))
    if not wrong.size:
        return ""
    first = tuple(int(i) for i in wrong[0])
    same = np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None))
    rows = [int(i) for i in np.unique(wrong[:, -2])[:12]] if a.ndim > 1 else []
    return (
        f"\n    {len(wrong)} of {a.size} numbers{', the same in another order' if same else ''}; first at "
        f"{list(first)}: {a[first]!r}, not {b[first]!r}{f'; rows {rows}' if rows else ''}"
    )


def _numbers(path: Path, name: str) -> NDArray[np.float32] | None:
    header = read_header(path, block_sizes)
    for tensor in header.tensors:
        if tensor.name == name and tensor.type_id == 0:
            start = header.data_offset + tensor.offset
            content = np.frombuffer(map_file(path), np.uint8)[start : start + 4 * tensor.n_weights]
            return content.view(np.float32).reshape(tensor.shape)
    return None
