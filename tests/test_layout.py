"""The shape of what stands beside the package: tests and tools share `testing` and know nothing of each
other, and nothing in tools escapes lint and types.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"


def python_files(directory: Path) -> list[Path]:
    """Modules, and programs without a suffix that Python runs."""
    files = [path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path for path in files if path.suffix == ".py" or (not path.suffix and is_program(path)))


def is_program(path: Path) -> bool:
    return path.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def modules_of(directory: Path) -> set[str]:
    """The names by which what stands in a directory could be imported, and its own."""
    return {directory.name} | {
        path.stem for path in directory.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }


def imported(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_tools_import_no_tests() -> None:
    files = [*python_files(TOOLS), *python_files(ROOT / "testing")]
    tests = modules_of(ROOT / "tests") | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    assert files
    assert {path: sorted(tests & set(imported(path))) for path in files if tests & set(imported(path))} == {}


def test_tests_import_no_tools() -> None:
    files = [*python_files(ROOT / "tests"), *python_files(ROOT / "testing")]
    tools = modules_of(TOOLS)
    assert {"tools", "repository", "benchmarks", "comparisons", "file_differences"} <= tools
    assert {path: sorted(tools & set(imported(path))) for path in files if tools & set(imported(path))} == {}


def test_one_file_says_where_tools_find_what_they_import() -> None:
    changing = r"\bsys\.path(?:\[|\.| =| \+=)"
    found = {path for path in python_files(TOOLS) if re.search(changing, path.read_text(encoding="utf-8"))}
    assert found == {TOOLS / "repository.py", *FOREIGN}


FOREIGN = {
    TOOLS / "check_ksy",
    TOOLS / "goldens" / "record.py",
    TOOLS / "peer" / "convert.py",
    TOOLS / "peer" / "tokenizers.py",
}
"""These import what another project has written: Kaitai's reader, llama.cpp's converter."""


def test_programs_without_a_suffix_are_linted_and_typed() -> None:
    """Neither ruff nor mypy would find them."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    programs = {path.relative_to(ROOT).as_posix() for path in python_files(TOOLS) if not path.suffix}
    for key in ("extend-include", "files"):
        (listed,) = re.findall(rf"^{key} = \[(.*?)^\]", settings, re.MULTILINE | re.DOTALL)
        assert set(re.findall(r'^ +"(tools/\w+)"', listed, re.MULTILINE)) == programs
