"""What the documentation shows is true: Python runs, commands exist and print what is shown, links lead
somewhere.

Every page is a session of its own, in a directory with a checkpoint and the model.gguf that was made from it.
The page that converts the checkpoint to model.gguf begins without it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gguflow
from gguflow import cli
from testing.checkpoints import FIXTURES, TINY

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
OTHERS = [ROOT / "CHANGELOG.md", *sorted((ROOT / "spec").rglob("*.md")), *sorted(FIXTURES.glob("*.md"))]
LINKED = [path.relative_to(ROOT).as_posix() for path in (*PAGES, *OTHERS)]


def fenced(language: str) -> dict[str, list[str]]:
    """Of each page that has any, its blocks of a language."""
    block = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return {name: blocks for name, text in TEXTS.items() if (blocks := block.findall(text))}


PYTHON = fenced("python")
COMMANDS = [
    pytest.param(command, output, id=f"{name}-{i}")
    for name, blocks in fenced("console").items()
    for i, (command, output) in enumerate(
        re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", "".join(blocks), re.MULTILINE)
    )
]
"""Each line that begins with a prompt, and the lines that follow it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    gguflow.convert(TINY, path, type="q4_k_m")
    return path


@pytest.fixture
def desk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a checkpoint, the model made from it, and the fixtures as in a clone."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, "checkpoint")
    os.link(model, "model.gguf")
    os.symlink(FIXTURES, "fixtures")
    return tmp_path


@pytest.mark.parametrize("page", sorted(PYTHON.keys() - {"docs/pytorch.md"}))  # tests/torch runs that one
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
    """Commands of gguflow parse, tools are there. Output that is shown is what the command prints, but for
    times.
    """
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
    actions = cli.parser()._actions
    return sorted(
        next(action for action in actions if isinstance(action, argparse._SubParsersAction)).choices
    )


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


def test_generated_parts_are_what_the_tool_writes() -> None:
    """Tables of formats, differences and model classes."""
    command = [sys.executable, str(ROOT / "tools" / "render_docs"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def anchors(path: Path) -> set[str]:
    """The headings of a page, as a host makes fragments of them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        path, _, fragment = target.partition("#")
        if not path.startswith(("http:", "https:")):
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.is_file(), target
            assert not fragment or fragment in anchors(file), target


def test_the_site_has_every_page() -> None:
    """As tools/docs finds too, which needs mkdocs."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^ +- .*: (\S+\.md)$", settings, re.MULTILINE)) == sorted(LINKED)
