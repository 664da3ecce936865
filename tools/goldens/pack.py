"""Put all recipes and records into fixtures/golden.zip.

The same recipes and records give the same bytes. A recipe without a record is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from testing.golden.packed import PACKED, Record, class_of, pack
from testing.golden.recipes import Recipe

LARGEST = 2_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--without", action="append", default=[], metavar="CLASS", help="leave a record out")
    parser.add_argument("--output", type=Path, default=PACKED, metavar="FILE", help="(default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.records
    records = {
        path.name.removesuffix(".json"): Record.parse(path.read_text(encoding="utf-8"))
        for path in sorted((directory / "records").glob("*.json"))
        if path.name.removesuffix(".json") not in arguments.without
    }
    recipes = {
        name: Recipe.parse((directory / "recipes" / f"{name}.json").read_text(encoding="utf-8"))
        for name in records
    }
    known = json.loads((directory / "classes.json").read_text(encoding="utf-8"))
    pack(arguments.output, recipes, records, known)
    nbytes = arguments.output.stat().st_size
    n_classes = len({class_of(name) for name in records})
    print(
        f"{arguments.output}: {n_classes} of {len(known)} classes, {len(records)} records, {nbytes:,} bytes"
    )
    return 0 if nbytes <= LARGEST else 1
