"""The command line as scripts and people meet it: output, exit codes, messages, and what is not imported."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from checkpoints import TINY, tiny_llama
from gguflow import __version__
from gguflow.blocks import FORMATS
from gguflow.cli import main, parser
from gguflow.parametric import presets


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small GGUF file."""
    path = tmp_path / "model.gguf"
    assert (
        main(["convert", str(tiny_llama(tmp_path / "checkpoint")), "-o", str(path), "-t", "q8_0", "-q"]) == 0
    )
    return path


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gguflow", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is listed, explained, and explains each of its options."""
    commands = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert commands
    for name, command in dict(commands).items():
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert len(command.description) > 50
        for action in command._actions:
            assert action.help, f"{name}: {action.dest} is not explained"
            assert all(option in shown for option in action.option_strings)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"gguflow {__version__}\n"


def test_convert_for_people(tmp_path: Path) -> None:
    """The table on stderr, the path on stdout, llama.cpp's file name."""
    done = run("convert", TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Tiny-Py-Llama-8.4M-Q4_K_M.gguf\n"
    assert (tmp_path / done.stdout.strip()).stat().st_size > 4_000_000
    for word in ("Q4_K", "Q6_K", "F32", "bits per weight", "M weights/s"):
        assert word in done.stderr


def test_convert_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(TINY), "-o", str(out), "-t", "Q6_K", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert report["output"] == str(out)
    assert report["nbytes"] == out.stat().st_size
    assert report["n_weights"] == sum(total["n_weights"] for total in report["formats"].values()) == 8_392_960


def test_dry_run_reads_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is exact: the same tensors, offsets and size as the file, from the headers alone."""
    directory = tiny_llama(tmp_path / "checkpoint")
    out = tmp_path / "out.gguf"
    assert main(["convert", str(directory), "-o", str(out), "-t", "q4_k_m", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert main(["convert", str(directory), "-o", str(out), "-t", "q4_k_m", "-q"]) == 0
    assert plan["nbytes"] == out.stat().st_size
    capsys.readouterr()
    assert main(["inspect", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert all(tensor.pop("rule") for tensor in plan["tensors"])
    assert shown["tensors"] == plan["tensors"]
    digests = {"gguflow.integrity.length", "gguflow.integrity.header", "gguflow.integrity.tensors"}
    assert all(
        shown["metadata"][key] == value for key, value in plan["metadata"].items() if key not in digests
    )
    assert main(["convert", str(directory), "-t", "q4_k_m", "--dry-run"]) == 0
    assert f"{plan['nbytes']:,} bytes" in capsys.readouterr().out


def test_inspect(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "general.architecture" in shown and '"llama"' in shown
    assert "string[4096]" in shown and "…]" in shown, "long arrays are abridged"
    assert "blk.1.ffn_down.weight" in shown
    assert main(["inspect", str(model), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["metadata"]["tokenizer.ggml.tokens"]) == 4096
    down = next(tensor for tensor in data["tensors"] if tensor["name"] == "blk.1.ffn_down.weight")
    assert (down["shape"], down["format"], down["nbytes"]) == ([64, 96], "Q8_0", 64 * 96 // 32 * 34)


def test_what_is_shown_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gguflow.container.metadata import string
    from gguflow.container.writer import build

    path = tmp_path / "model.gguf"
    path.write_bytes(build({"general.name": string("\x1b[2J\x07evil\u202e"), "k\x1b": string("v")}, ()))
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "evil" in shown
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}


def test_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == [*FORMATS, *presets()]
    q4_k = next(entry for entry in listed if entry["name"] == "q4_k")
    assert (
        q4_k.items()
        >= {"name": "q4_k", "id": 12, "block_size": 256, "type_size": 144, "bits_per_weight": 4.5}.items()
    )
    assert main(["formats"]) == 0
    shown = [line.split()[0].lower() for line in capsys.readouterr().out.splitlines() if line]
    assert shown == ["format", *FORMATS, "encoding", *presets(), "each"]


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
        "threads must be 1 or more",
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


def test_a_closed_pipe_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -m gguflow inspect {model} --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    """Under a pseudo-terminal: tensors, bytes, rate, time left."""
    terminal, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [
        sys.executable,
        "-m",
        "gguflow",
        "convert",
        str(TINY),
        "-t",
        "q8_0",
        "-o",
        str(tmp_path / "out.gguf"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while data := os.read(terminal, 4096):
            shown += data
    os.close(terminal)
    assert process.wait() == 0, shown.decode()
    assert re.search(rb"\d+/75 tensors: +\d+%.*B/s", shown), shown.decode()
