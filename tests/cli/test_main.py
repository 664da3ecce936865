"""The command line as a whole: how commands are found, exit codes, messages, suggestions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gguflow import __version__, cli
from gguflow.cli import commands, main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"gguflow {__version__}\n"


def test_a_command_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module beside the others is a command, without a change anywhere."""
    (tmp_path / "greet.py").write_text(
        "from gguflow.cli.command import Command\n"
        "def run(arguments):\n    print('hello')\n"
        "COMMAND = Command('greet', 45, 'say hello', 'Say hello.', lambda parser: None, run)\n"
    )
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    commands.cache_clear()
    try:
        assert main(["greet"]) == 0
        names = list(commands())
    finally:
        commands.cache_clear()
    assert capsys.readouterr().out == "hello\n"
    assert names.index("inspect") + 1 == names.index("greet") == names.index("validate") - 1


def test_commands_have_a_name_and_a_place_of_their_own() -> None:
    assert len({command.order for command in commands().values()}) == len(commands())
    for name in commands():
        assert getattr(cli, name).COMMAND is commands()[name], "each in the module of its name"


ERRORS = {
    "no such source": (["convert", "missing"], 4, "missing"),
    "unknown type": (["convert", "checkpoint", "-t", "q9"], 2, "unknown type 'q9'; known: "),
    "a format that only stores numbers": (["convert", "checkpoint", "-t", "i8"], 2, "unknown type 'i8'"),
    "output exists": (["convert", "checkpoint", "-o", "model.gguf"], 2, "--overwrite"),
    "no such directory": (["convert", "checkpoint", "-o", "none/out.gguf"], 4, "no such file or directory"),
    "inspect nothing": (["inspect", "missing.gguf"], 4, "missing.gguf"),
    "inspect something else": (["inspect", "checkpoint/config.json"], 3, "C-001"),
    "inspect a directory": (["inspect", "checkpoint"], 4, "directory"),
    "no threads": (
        ["convert", "checkpoint", "-o", "out.gguf", "--threads", "0"],
        2,
        "threads must be an integer from 1",
    ),
}


@pytest.mark.parametrize(("arguments", "status", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(
    model: Path,
    arguments: list[str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(model.parent)
    capsys.readouterr()
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gguflow: ") and message in captured.err


@pytest.mark.parametrize("arguments", [[], ["convert"], ["inspect", "a", "b"], ["--nonsense"]], ids=str)
def test_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


SUGGESTIONS = {
    "a command": (["covert", "model"], "unknown command 'covert'; did you mean convert?"),
    "nothing like a command": (["zzz"], "unknown command 'zzz' (choose from convert, export,"),
    "an option": (["convert", "model", "--ouput", "out.gguf"], "did you mean --output?"),
    "an option with a value": (["validate", "model", "--levle=values"], "did you mean --level?"),
    "nothing like an option": (["inspect", "model", "--zzz"], "unrecognized arguments: --zzz\n"),
    "a choice": (["validate", "model", "--level", "valeus"], "strict); did you mean values?"),
}


@pytest.mark.parametrize(("arguments", "message"), SUGGESTIONS.values(), ids=SUGGESTIONS)
def test_a_misspelt_word_is_recognized(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_an_interruption_says_what_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gguflow.conversion.prepare", interrupt)
    monkeypatch.setattr("gguflow.editing.edit", interrupt)
    assert main(["convert", "model"]) == 130
    assert capsys.readouterr().err == "gguflow: interrupted; run the same command again to resume\n"
    assert main(["edit", "model.gguf"]) == 130
    assert capsys.readouterr().err == "gguflow: interrupted\n"


def test_a_closed_pipe_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -m gguflow inspect {model} --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")
