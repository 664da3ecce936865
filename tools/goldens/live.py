"""Golden recipes through the peer as it is now, and through gguflow: what differs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from repository import ROOT

from testing.golden.contents import FLOATS
from testing.golden.conversion import unexplained_differences
from testing.golden.packed import Packed, Record
from testing.golden.recipes import Recipe


def recipe_of(name: str, records: Path, packed: Packed) -> Recipe | None:
    """A class's recipe: the loose one, else the packed one; None if there is none.

    name: CLASS or CLASS+VARIANT.
    records: the directory with recipes/.
    packed: the golden file.
    """
    loose = records / "recipes" / f"{name}.json"
    if loose.is_file():
        return Recipe.parse(loose.read_text(encoding="utf-8"))
    return packed.recipe(name) if name in packed.names else None


def compare_classes(
    recipes: dict[str, Recipe], tree: Path, pythons: Sequence[Path], work: Path | None
) -> Iterator[tuple[str, str, str]]:
    """(name, number type, difference), the last being "equal" where there is none.

    recipes: by name.
    tree: the peer's source tree.
    pythons: with torch and transformers; each does the recipes that its version of transformers made.
    work: for temporary files; None for the usual place.
    """
    with tempfile.TemporaryDirectory(dir=work) as directory:
        records = Path(directory)
        (records / "recipes").mkdir()
        for name, recipe in recipes.items():
            (records / "recipes" / f"{name}.json").write_text(recipe.text(), encoding="utf-8")
        said = _record(list(recipes), tree, pythons, records)
        for name, recipe in recipes.items():
            path = records / "records" / f"{name}.json"
            if not path.is_file():
                yield name, "", f"the peer wrote nothing: {said.get(name, 'no Python fits')}"
                continue
            record = Record.parse(path.read_text(encoding="utf-8"))
            for dtype in FLOATS:
                for difference in _differences(recipe, record, dtype):
                    yield name, dtype, difference


def _record(names: list[str], tree: Path, pythons: Sequence[Path], records: Path) -> dict[str, str]:
    """Runs the peer; what it said, by name."""
    said: dict[str, str] = {}
    for python in pythons:
        left = [name for name in names if not (records / "records" / f"{name}.json").is_file()]
        if not left:
            break
        command = [str(python), str(ROOT / "tools" / "golden"), "record", "--records", str(records)]
        done = subprocess.run(
            [*command, "--tree", str(tree), *left], capture_output=True, text=True, check=False
        )
        lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
        if not lines:
            sys.exit(f"{python}: {done.stderr.strip()[-2000:]}")
        said |= lines
    return said


def _differences(recipe: Recipe, record: Record, dtype: str) -> list[str]:
    with tempfile.TemporaryDirectory() as work:
        try:
            found, _ = unexplained_differences(recipe, dtype, record.files[dtype], Path(work))
        except Exception as error:
            return [f"{type(error).__name__}: {error}"]
    return [f"{where}: {difference}" for where, difference in found.items()] or ["equal"]
