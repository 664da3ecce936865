"""stdout and stderr that are full, closed, gone, or of few characters: the work is done all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gguflow.cli import main
from testing.checkpoints import tiny_llama, write_safetensors
from testing.row_stores import vectors

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and a shell")

GGUFLOW = f"{sys.executable} -m gguflow"

CONVERT = f"{GGUFLOW} convert x.safetensors --arch any -t q8_0 -o out.gguf"
INSPECT = f"{GGUFLOW} inspect model.gguf"
EDIT = f"{GGUFLOW} edit model.gguf --set a.b=str:c -o out.gguf"
EXPORT = f"{GGUFLOW} export model.gguf -o out.gguf/model.safetensors"

CASES = {
    "stdout full": (f"{CONVERT} > /dev/full", 4),
    "stdout full, edit": (f"{EDIT} > /dev/full", 4),
    "stdout full, inspect": (f"{INSPECT} > /dev/full", 4),
    "stdout full, inspect as JSON": (f"{INSPECT} --json > /dev/full", 4),
    "stdout full, help": (f"{GGUFLOW} --help > /dev/full", 4),
    "stdout full, version": (f"{GGUFLOW} --version > /dev/full", 4),
    "stdout full, an error": (f"{GGUFLOW} inspect missing.gguf > /dev/full", 4),
    "stdout closed": (f"{CONVERT} >&-", 0),
    "stdout closed, inspect": (f"{INSPECT} >&-", 0),
    "stdout closed, an error": (f"{GGUFLOW} inspect x.safetensors >&-", 3),
    "stderr closed": (f"{CONVERT} 2>&-", 0),
    "stderr closed, edit": (f"{EDIT} 2>&-", 0),
    "stderr closed, an error": (f"{GGUFLOW} inspect x.safetensors 2>&-", 3),
    "stderr closed, wrong usage": (f"{GGUFLOW} inspect 2>&-", 2),
    "stderr full": (f"{CONVERT} 2> /dev/full", 0),
    "stderr full, edit": (f"{EDIT} 2> /dev/full", 0),
    "stderr full, an error": (f"{GGUFLOW} inspect x.safetensors 2> /dev/full", 3),
    "stderr full, wrong usage": (f"{GGUFLOW} inspect 2> /dev/full", 2),
    "both full": (f"{CONVERT} > /dev/full 2>&1", 4),
    "all closed": (f"{CONVERT} <&- >&- 2>&-", 0),
    "the reader of stderr has gone": (f"{CONVERT} --explain 2> >(true)", 0),
    "the reader of both has gone": (f"{CONVERT} --explain 2>&1 | true", 0),
    "the reader of both takes a line": (f"{CONVERT} --explain 2>&1 | head -n 1", 0),
    "the reader of stdout has gone": (f"{CONVERT} | true", 0),
    "the reader of stdout has gone, edit": (f"{EDIT} | true", 0),
    "the reader of help has gone": (f"{GGUFLOW} --help | true", 0),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and a model."""
    directory = tmp_path_factory.mktemp("streams")
    write_safetensors(directory / "x.safetensors", {"a.weight": vectors(64, 64)})
    tiny = tiny_llama(directory / "checkpoint")
    assert main(["convert", str(tiny), "-o", str(directory / "model.gguf"), "-t", "q8_0", "-q"]) == 0
    return directory


@pytest.mark.parametrize(("command", "status"), CASES.values(), ids=CASES)
def test_streams(directory: Path, command: str, status: int) -> None:
    """The exit code, no traceback, and an output where one was asked for."""
    out = directory / "out.gguf"
    out.unlink(missing_ok=True)
    script = f"{command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.returncode == status, done.stderr
    assert out.exists() == ("-o out.gguf" in command)
    if status == 4 and "2>&1" not in command:
        assert "gguflow: cannot " in done.stderr


ENCODINGS = {
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "the locale C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("environment", ENCODINGS.values(), ids=ENCODINGS)
def test_characters_that_a_stream_does_not_have(directory: Path, environment: dict[str, str]) -> None:
    """In a table of sizes that are bounds, in a name from a file, in the name of the output."""
    environment = os.environ | environment
    commands = [
        f"{GGUFLOW} convert x.safetensors --arch any -t lossless --dry-run --explain",
        f"{GGUFLOW} convert x.safetensors --arch any -t q8_0 -o 'naïve 模型.gguf' --overwrite",
        f"{GGUFLOW} inspect 'missing 模型'",
    ]
    for command, status in zip(commands, (0, 0, 4), strict=True):
        done = subprocess.run(["bash", "-c", command], cwd=directory, capture_output=True, env=environment)
        assert b"Traceback" not in done.stderr
        assert done.returncode == status, done.stderr
    assert (directory / "naïve 模型.gguf").exists()


def test_the_name_of_an_output_is_printed_as_its_bytes(directory: Path) -> None:
    """Those that are no UTF-8 among them: whoever reads them finds the file."""
    name = b"\xff\xfe.gguf"
    command = [*CONVERT.split()[:-2], "-q", "--overwrite", "-o"]
    done = subprocess.run([*map(os.fsencode, command), name], cwd=directory, capture_output=True)
    assert (done.returncode, done.stdout.splitlines()) == (0, [name])


MEMORY = """
import sys
import gguflow.conversion
def run(*arguments, **options):
    raise MemoryError("Unable to allocate 1.5 GiB")
gguflow.conversion.run = run
from gguflow.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_out_of_memory(directory: Path) -> None:
    command = [sys.executable, "-c", MEMORY, "convert", "x.safetensors", "--arch", "any", "-o", "none.gguf"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gguflow: out of memory (Unable to allocate 1.5 GiB); a smaller --memory-")


@pytest.mark.parametrize("signals", [(2, 2), (15, 15), (2, 15), (15, 2, 2, 2, 15)], ids=str)
def test_interrupted_in_quick_succession(tmp_path: Path, signals: tuple[int, ...]) -> None:
    """130, no traceback, and the same command goes on to the same bytes."""
    source = write_safetensors(
        tmp_path / "x.safetensors", {f"{i}.weight": vectors(4096, 256) for i in range(4)}
    )
    command = [*GGUFLOW.split(), "convert", str(source), "--arch", "any", "-t", "q8_0"]
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert subprocess.run([*command, "-q", "-o", str(whole)], capture_output=True).returncode == 0
    for delay in (0.0, 0.001, 0.005, 0.01):
        slow = [sys.executable, "-c", SLOW, *command[3:], "-o", str(out), "--threads", "2"]
        with subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            for number in signals:
                process.send_signal(signal.Signals(number))
                time.sleep(delay)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert said == "gguflow: interrupted; run the same command again to resume\n"
        assert not out.exists()
    assert subprocess.run([*command, "-q", "-o", str(out)], capture_output=True).returncode == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "whole.gguf", "x.safetensors"]


SLOW = """
import os, sys, time
from gguflow.container import output_file
write = output_file.OutputFile.write
def slow(*arguments):
    write(*arguments)
    os.write(1, b"writing\\n")
    time.sleep(0.2)
output_file.OutputFile.write = slow
from gguflow.cli import main
sys.exit(main(sys.argv[1:]))
"""


FILES = {
    "a device": "/dev/zero",
    "a pipe": "pipe",
    "a directory": ".",
    "nothing": "missing",
    "NUL": "a\0b",
    "too long": "large",
    "a long name": "n" * 300,
}


@pytest.mark.parametrize("name", FILES.values(), ids=FILES)
def test_files_that_become_text(
    directory: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kind and the size are proved before they are read to their end, which there may not be."""
    monkeypatch.chdir(directory)
    if not Path("pipe").exists():
        os.mkfifo("pipe")
    with open("large", "wb") as file:
        file.truncate((1 << 30) + 1)
    status = 4 if name in (".", "missing", "n" * 300) else 2
    assert main(["edit", "model.gguf", "--set", f"a.b=str:@{name}", "-o", "none.gguf"]) == status
    convert = ["convert", "x.safetensors", "--arch", "any", "--dry-run"]
    assert main([*convert, "--tensor-type-file", name]) == status
    Path("large").unlink()
    said = capsys.readouterr().err
    assert said.count("gguflow: ") == 2
    assert name.replace("\0", "\\x00") in said


def test_a_string_of_a_file_at_the_limit(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguflow import editing
    from gguflow.errors import UsageError

    monkeypatch.setattr(editing, "MAX_TEXT_NBYTES", 5)
    (directory / "text").write_bytes(b"12345")
    assert editing.parse_assignment(f"a.b=str:@{directory / 'text'}")[1].value == "12345"
    (directory / "text").write_bytes(b"123456")
    with pytest.raises(UsageError, match="longer than 5 bytes"):
        editing.parse_assignment(f"a.b=str:@{directory / 'text'}")
