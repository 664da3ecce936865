"""Text from files is escaped wherever it is printed: it steers no terminal and makes no line of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gguflow.cli import main
from gguflow.cli.text import path_text
from gguflow.container.metadata import Metadata, f32, string
from gguflow.errors import (
    FileError,
    Finding,
    GguflowError,
    InvalidError,
    NonFiniteError,
    StorageError,
    UsageError,
)
from testing.gguf_files import array_file

HOSTILE = "\x1b]0;title\x07\nforged: valid\r\x9b31m\u202e\x7f"
NAME = "a\x1b[2J\nforged: valid\u202e"
ONES = np.ones((2, 32), np.float32)

STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|^forged", re.MULTILINE)


def hostile_file(directory: Path, name: str = "model.gguf") -> Path:
    """A file with such text in every place: its path, its architecture, a key, a value, names of tensors."""
    keys: Metadata = {"general.architecture": string(HOSTILE), NAME: f32(1), "k": string(HOSTILE)}
    directory.mkdir(exist_ok=True)
    return array_file(directory / name, keys, {NAME: ONES, f"only {name}\n{NAME}": ONES})


COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "inspect": lambda a, b: ["inspect", str(a)],
    "inspect, no such file": lambda a, b: ["inspect", str(a) + "x"],
    "validate": lambda a, b: ["validate", str(a)],
    "validate, no such file": lambda a, b: ["validate", str(a) + "x"],
    "compare": lambda a, b: ["compare", str(a), str(b)],
    "compare, no such file": lambda a, b: ["compare", str(a), str(b) + "x"],
    "convert --dry-run": lambda a, b: ["convert", str(a), "-t", "q8_0", "--dry-run"],
    "convert --explain": lambda a, b: [
        *("convert", str(a), "-t", "q8_0", "--explain", "-o", str(a.with_name("out.gguf"))),
    ],
    "convert, the output is there": lambda a, b: ["convert", str(a), "-t", "q8_0", "-o", str(b)],
    "convert, an imatrix is needed": lambda a, b: ["convert", str(a), "-t", "iq1_s", "--dry-run"],
    "convert, nothing matches": lambda a, b: [
        *("convert", str(a), "-t", "q8_0", "--dry-run", "--tensor-type", f"{NAME}=q4_k"),
    ],
    "edit": lambda a, b: ["edit", str(a), "--remove", NAME],
    "edit, no such key": lambda a, b: ["edit", str(a), "--remove", HOSTILE],
    "export": lambda a, b: ["export", str(a), "-o", str(a.with_name("out.safetensors"))],
    "export, no such form": lambda a, b: ["export", str(a), "-o", str(b), "--to", "bnb"],
    "run": lambda a, b: ["run", str(a), "-p", "x"],
    "perplexity": lambda a, b: ["perplexity", str(a), "-f", str(b)],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_is_printed_steers_no_terminal(
    command: Callable[[Path, Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gguflow.cli.text.sys.stdout.isatty", lambda: True)
    a = hostile_file(tmp_path / f"a{HOSTILE}".replace("/", ""))
    b = hostile_file(tmp_path / f"b{HOSTILE}", "other.gguf")
    main(command(a, b))
    printed = capsys.readouterr()
    assert printed.out + printed.err
    for stream in (printed.out, printed.err):
        assert STEERING.findall(stream) == []


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "a", f"--{HOSTILE}"], [HOSTILE], ["convert", "--io", HOSTILE, "x"], ["formats", HOSTILE]],
    ids=["option", "command", "choice", "one too many"],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They may be names of files, which a shell found."""
    with pytest.raises(SystemExit):
        main(arguments)
    assert STEERING.findall(capsys.readouterr().err) == []


def test_a_result_is_exact_for_programs_and_escaped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert path_text(Path("a\x1bb")) == "a\x1bb"
    monkeypatch.setattr("gguflow.cli.text.sys.stdout.isatty", lambda: True)
    assert path_text(Path("a\x1bb")) == "a\\x1bb"


ERRORS: dict[str, GguflowError] = {
    "usage": UsageError(HOSTILE),
    "storage": StorageError(HOSTILE),
    "not finite": NonFiniteError(HOSTILE, 0),
    "file": InvalidError(HOSTILE, Finding("C-001", HOSTILE, HOSTILE, 0, HOSTILE, HOSTILE)),
    "another file": FileError(
        HOSTILE, Finding("C-001", "wrong", found=[HOSTILE], expected={HOSTILE: HOSTILE})
    ),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_the_text_of_an_error_is_one_line(error: GguflowError) -> None:
    assert STEERING.findall(str(error)) == []
    assert "\n" not in str(error)
    assert "title" in str(error)
