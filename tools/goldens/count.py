"""Count the classes that convert equal to the peer, from fixtures/golden.zip."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from testing.golden.contents import FLOATS
from testing.golden.conversion import unexplained_differences
from testing.golden.packed import Packed, class_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="name the others, and why")


def run(arguments: argparse.Namespace) -> int:
    packed = Packed()
    equal: set[str] = set()
    different: set[str] = set()
    for name in packed.names:
        if class_of(name) not in packed.known:  # Mistral's own form, which has no classes
            continue
        reason = _reason(packed, name)
        (equal if reason is None else different).add(class_of(name))
        if arguments.verbose and reason is not None:
            print(f"{name}: {reason}"[:300], flush=True)
    n_recorded, n_known = len(equal | different), len(packed.known)
    print(f"{len(equal - different)} of {n_known} class names convert equal ({n_recorded} have a record)")
    return 0


def _reason(packed: Packed, name: str) -> str | None:
    """Why a class does not convert equal, or None."""
    recipe, record = packed.recipe(name), packed.record(name)
    for dtype in FLOATS:
        with tempfile.TemporaryDirectory() as work:
            try:
                found, _ = unexplained_differences(recipe, dtype, record.files[dtype], Path(work))
            except Exception as error:
                return f"{dtype}: {type(error).__name__}: {error}"
        if found:
            return f"{dtype}: {len(found)} differences, first {next(iter(found.items()))}"
    return None
