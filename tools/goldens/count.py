"""Count the classes that convert equal to the peer, from fixtures/golden.zip."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from testing.golden.contents import FLOATS
from testing.golden.conversion import unexplained_differences
from testing.golden.packed import Packed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="name the others, and why")


def run(arguments: argparse.Namespace) -> int:
    packed = Packed()
    n_equal = 0
    for name in packed.names:
        reason = _reason(packed, name)
        n_equal += reason is None
        if arguments.verbose and reason is not None:
            print(f"{name}: {reason}"[:300], flush=True)
    print(f"{n_equal} of {len(packed.known)} class names convert equal ({len(packed.names)} have a record)")
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
