"""What README.md, CONTRIBUTING.md and docs/ show is true: Python runs, commands exist and print what is shown, links lead somewhere.

Every page is a session of its own, in a directory with a checkpoint and the model.gguf that was made from it. The page that
converts the checkpoint to model.gguf begins without it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import gguflow
from checkpoints import FIXTURES, TINY
from gguflow import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
LINKED = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "spec").rglob("*.md")), *sorted(FIXTURES.glob("*.md"))]


def fenced(language: str) -> dict[str, list[str]]:
    """Of each page that has any, its blocks of a language."""
    found = {name: re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for name, text in TEXTS.items()}
    return {name: blocks for name, blocks in found.items() if blocks}


PYTHON = fenced("python")
COMMANDS = [
    pytest.param(*re.fullmatch(r"\$ (.*)\n((?:[^$].*\n)*)", part).groups(), id=f"{name}-{i}")  # type: ignore[union-attr]
    for name, blocks in fenced("console").items()
    for i, part in enumerate(part for block in blocks for part in re.findall(r"^\$ .*\n(?:[^$].*\n)*", block, re.MULTILINE))
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    gguflow.convert(TINY, path, type="q4_k_m")
    return path


@pytest.fixture
def desk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a checkpoint, the model made from it, and the fixtures as they lie in a clone."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, "checkpoint")
    os.link(model, "model.gguf")
    os.symlink(FIXTURES, "fixtures")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PYTHON if "import torch" not in TEXTS[page]])  # tests/pytorch runs those
def test_python_blocks(page: str, desk: Path) -> None:
    if 'gguflow.convert("checkpoint/", "model.gguf"' in TEXTS[page]:
        (desk / "model.gguf").unlink()
    names: dict[str, Any] = {}
    for i, block in enumerate(PYTHON[page]):
        exec(compile(block, f"{page}, block {i}", "exec"), names)
    shapes = {"y": (3, 256), "keys": (11, 128), "restored": (64, 256)}
    assert all(names[name].shape == shape for name, shape in shapes.items() if name in names)


@pytest.mark.parametrize(("command", "output"), COMMANDS)
def test_commands(command: str, output: str, desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Commands of gguflow parse, tools are there; where a page shows the output, it is what the command prints, but for times."""
    words = shlex.split(command, comments=True)
    if words[0] == "gguflow":
        parsed = cli.parser().parse_args(words[1:])
        assert parsed.command == words[1]
        if output:
            cli.main(words[1:])
            printed = capfd.readouterr()
            assert without_times(printed.err + printed.out) == without_times(output)
    else:
        assert (ROOT / words[0]).exists() or words[0] in ("pip", "echo")


def without_times(text: str) -> str:
    return re.sub(r"[\d.]+ s, [\d,.]+ M weights/s", "TIME", text)


def subcommands() -> list[str]:
    return sorted(next(action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)).choices)


def test_commands_are_marked_as_such() -> None:
    """With a prompt, in blocks that are looked at above."""
    assert COMMANDS
    for name, text in TEXTS.items():
        assert re.findall(rf"^ *gguflow (?:{'|'.join(subcommands())}) .*$", text, re.MULTILINE) == [], name


def test_the_readme_has_every_command() -> None:
    assert sorted(re.findall(r"^\| `gguflow (\w+)", TEXTS["README.md"], re.MULTILINE)) == subcommands()


def test_the_readme_is_short() -> None:
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 110


def anchors(path: Path) -> set[str]:
    """The headings of a page, as a host makes fragments of them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in LINKED])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, fragment = target.partition("#")
        if not path.startswith(("http:", "https:")):
            file = page if not path else page.parent / path
            assert file.is_file(), target
            assert not fragment or fragment in anchors(file), target


def test_the_site_has_every_page() -> None:
    """As tools/docs finds too, which needs mkdocs."""
    nav = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(nav) == sorted(path.relative_to(ROOT).as_posix() for path in LINKED)
