"""Editing metadata: what is named changes and nothing else does, llama.cpp reads the result, and whatever
goes wrong leaves the file as it was.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gguflow import conversion, editing, platform
from gguflow.blocks import block_sizes
from gguflow.cli import main
from gguflow.container.header import Header
from gguflow.container.integrity import without_set
from gguflow.container.metadata import Metadata, Value, ValueType, array, boolean, string, u32
from gguflow.container.reader import read_header
from gguflow.container.writer import build
from gguflow.editing import edit, parse_assignment
from gguflow.errors import ExitStatus, InvalidError, StorageError, UsageError
from gguflow.validation import examine
from testing import llama_cpp
from testing.checkpoints import TINY, tiny_llama, write_safetensors

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\u2581\U0001f600{% endfor %}"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small model as convert writes it."""
    directory = tmp_path_factory.mktemp("converted")
    conversion.convert(tiny_llama(directory / "checkpoint"), directory / "model.gguf", type="q8_0")
    return (directory / "model.gguf").read_bytes()


@pytest.fixture
def model(tmp_path: Path, converted: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(converted)
    return path


def header_of(path: Path) -> Header:
    return read_header(path, block_sizes)


def data_of(path: Path) -> bytes:
    return path.read_bytes()[header_of(path).data_offset :]


def own(metadata: Metadata) -> dict[str, object]:
    """All but the key set, as comparable data."""
    return {
        key: (value.type, value.element_type, list(value.value) if value.element_type else value.value)
        for key, value in without_set(metadata).items()
    }


def test_only_what_is_named_changes(model: Path, tmp_path: Path) -> None:
    """In place: a value that grows, one that is new, one that goes; the weights and all other keys stay, and
    the file proves itself.
    """
    before, data = own(header_of(model).metadata), data_of(model)
    (tmp_path / "template.jinja").write_text(TEMPLATE, encoding="utf-8")
    done = edit(
        model,
        [
            parse_assignment("tokenizer.ggml.eos_token_id=u32:7"),
            parse_assignment(f"tokenizer.chat_template=str:@{tmp_path}/template.jinja"),
            parse_assignment("general.name=str:" + "long " * 1000),
        ],
        ["general.file_type"],
    )
    after = own(header_of(model).metadata)
    assert done.verified and done.nbytes == model.stat().st_size
    assert [key for key, _, _ in done.changes] == [
        "general.file_type",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.chat_template",
        "general.name",
    ]
    assert after["tokenizer.chat_template"] == (ValueType.STRING, None, TEMPLATE)
    assert after["tokenizer.ggml.eos_token_id"] == (ValueType.UINT32, None, 7)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {
        "tokenizer.ggml.eos_token_id",
        "tokenizer.chat_template",
        "general.name",
        "general.file_type",
    }
    assert [key for key in after if key in before] == [key for key in before if key in after], (
        "in their order"
    )
    assert data_of(model) == data
    assert [finding for finding in examine(model, "strict")[1] if finding.severity == "error"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "template.jinja"]


def test_back_and_forth_gives_the_same_bytes(model: Path, converted: bytes) -> None:
    name = header_of(model).metadata["general.name"]
    edit(model, [("general.name", string("x"))])
    assert model.read_bytes() != converted
    edit(model, [("general.name", name)])
    assert model.read_bytes() == converted


def test_into_another_file(model: Path, converted: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    edit(model, [("general.name", string("x"))], output=out)
    assert model.read_bytes() == converted
    assert header_of(out).metadata["general.name"].value == "x"
    with pytest.raises(UsageError, match="--overwrite"):
        edit(model, [("general.name", string("y"))], output=out)
    edit(model, [("general.name", string("y"))], output=out, overwrite=True)
    assert header_of(out).metadata["general.name"].value == "y"


def test_llama_cpp_answers_as_before(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    conversion.convert(TINY, model, type="q8_0")
    before = llama_cpp.complete(str(model), "import os\nimport sys\n\ndef ", 16)
    edit(
        model,
        [("general.name", string("edited")), ("tokenizer.chat_template", string(TEMPLATE))],
        ["general.file_type"],
    )
    assert llama_cpp.complete(str(model), "import os\nimport sys\n\ndef ", 16) == before


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_without_a_set_stays_without(tmp_path: Path, threads: int) -> None:
    """Also one of another writer: version 2, metadata of every kind, no padding at the end."""
    x = np.arange(3 * 2**20 + 5, dtype=np.float32)
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": x, "y": x[:3]})
    model = tmp_path / "model.gguf"
    conversion.convert(source, model, type="f32", architecture="any", integrity=False)
    header = header_of(model)
    kinds: Metadata = {
        **header.metadata,
        "a.flags": array(ValueType.BOOL, [True, False] * 50),
        "a.raw": string("\udcff\udcfe"),
        "a.tokens": array(ValueType.STRING, ["", "\0", "x" * 300]),
        "a.i64": Value(ValueType.INT64, -(2**63)),
    }
    data = model.read_bytes()[header.data_offset : -20]
    rebuilt = bytearray(build(kinds, header.tensors))
    rebuilt[4] = 2
    model.write_bytes(rebuilt + data)
    before = own(header_of(model).metadata)
    done = edit(model, [("a.new", boolean(True))], threads=threads)
    assert not done.verified
    assert own(header_of(model).metadata) == {**before, "a.new": (ValueType.BOOL, None, True)}
    assert (header_of(model).version, data_of(model)) == (3, data + bytes(20))


def test_the_set_can_be_left_out(model: Path) -> None:
    spoilt = bytearray(model.read_bytes())
    spoilt[-40] ^= 1
    model.write_bytes(spoilt)
    edit(model, [], integrity=False)
    assert not [key for key in header_of(model).metadata if key.startswith("gguflow.")]
    assert data_of(model) == bytes(spoilt[-len(data_of(model)) :])


SPOILT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "damaged data": (lambda b: b[:-40] + bytes([b[-40] ^ 1]) + b[-39:], "I-006"),
    "damaged padding": (lambda b: b[:-1] + b"\1", "I-006"),
    "a header that another tool changed": (
        lambda b: b.replace(b"llama.context_length", b"llama.context_lengty"),
        "I-005",
    ),
    "an incomplete set": (lambda b: b.replace(b"gguflow.recipe.version", b"gguflow.recipe.versiom"), "I-001"),
    "cut off": (lambda b: b[:-100], "C-019"),
}


@pytest.mark.parametrize(("spoil", "rule"), SPOILT.values(), ids=SPOILT)
def test_what_does_not_match_its_own_set_is_refused(
    model: Path, spoil: Callable[[bytes], bytes], rule: str
) -> None:
    """I-012: else the new digests would vouch for the damage."""
    spoilt = spoil(model.read_bytes())
    model.write_bytes(spoilt)
    with pytest.raises(InvalidError) as caught:
        edit(model, [("general.name", string("x"))])
    assert caught.value.finding.rule == rule
    assert model.read_bytes() == spoilt
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


REFUSED: dict[str, tuple[list[tuple[str, Value]], list[str], type[Exception], str]] = {
    "the set": ([("gguflow.integrity.length", u32(1))], [], UsageError, "maintained by gguflow"),
    "removing the set": ([], ["gguflow.recipe"], UsageError, "--no-integrity"),
    "the alignment": ([("general.alignment", u32(64))], [], UsageError, "determines the layout"),
    "removing what is not there": ([], ["general.nmae"], UsageError, "no key 'general.nmae'"),
    "setting and removing": ([("general.name", string("x"))], ["general.name"], UsageError, "named twice"),
    "setting twice": (
        [("general.name", string("x")), ("general.name", string("y"))],
        [],
        UsageError,
        "named twice",
    ),
    "nothing": ([], [], UsageError, "nothing to change"),
    "a key of no length": ([("", string("x"))], [], InvalidError, "C-009"),
    "a key with a NUL": ([("a\0b", string("x"))], [], InvalidError, "C-030"),
    "a token outside of the vocabulary": (
        [("tokenizer.ggml.eos_token_id", u32(2**20))],
        [],
        InvalidError,
        "G-013",
    ),
    "a required key": ([], ["llama.block_count"], InvalidError, "G-003"),
    "a type that no loader takes": ([("tokenizer.ggml.tokens", string("x"))], [], InvalidError, "G-011"),
}


@pytest.mark.parametrize(("assign", "remove", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(
    model: Path,
    converted: bytes,
    assign: list[tuple[str, Value]],
    remove: list[str],
    error: type[Exception],
    message: str,
) -> None:
    """I-013 among them."""
    with pytest.raises(error, match=message):
        edit(model, assign, remove)
    assert model.read_bytes() == converted
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


VALUES: dict[str, tuple[ValueType, object]] = {
    "u8:255": (ValueType.UINT8, 255),
    "i8:-128": (ValueType.INT8, -128),
    "u16:65535": (ValueType.UINT16, 65535),
    "i16:-32768": (ValueType.INT16, -32768),
    "u32:+7": (ValueType.UINT32, 7),
    "i32:-1": (ValueType.INT32, -1),
    "u64:18446744073709551615": (ValueType.UINT64, 2**64 - 1),
    "i64:-9223372036854775808": (ValueType.INT64, -(2**63)),
    "f32:0.1": (ValueType.FLOAT32, float(np.float32(0.1))),
    "f32:-.5E-2": (ValueType.FLOAT32, float(np.float32(-0.005))),
    "f64:1e300": (ValueType.FLOAT64, 1e300),
    "bool:true": (ValueType.BOOL, True),
    "bool:false": (ValueType.BOOL, False),
    "str:": (ValueType.STRING, ""),
    "str:a=b:c": (ValueType.STRING, "a=b:c"),
    "str:@@name": (ValueType.STRING, "@name"),
}


@pytest.mark.parametrize(("text", "expected"), VALUES.items(), ids=VALUES)
def test_values(text: str, expected: tuple[ValueType, object]) -> None:
    key, value = parse_assignment(f"a.key={text}")
    assert (key, value.type, value.value) == ("a.key", *expected)


BAD = {
    "no equals sign": ("a.key", "write KEY=TYPE:VALUE"),
    "no type": ("a.key=1", "write KEY=TYPE:VALUE"),
    "no key": ("=u8:1", "write KEY=TYPE:VALUE"),
    "unknown type": ("a.key=int:1", "unknown type 'int' for 'a.key'; known: u8"),
    "too large": ("a.key=u8:256", "an integer from 0 to 255"),
    "too small": ("a.key=i16:-32769", "an integer from -32768 to 32767"),
    "negative": ("a.key=u64:-1", "an integer from 0 to 18446744073709551615"),
    "digits without end": ("a.key=u64:" + "9" * 5000, "is not a value of type u64"),
    "not whole": ("a.key=u32:1.0", "is not a value of type u32"),
    "underscores": ("a.key=u32:1_000", "is not a value of type u32"),
    "empty": ("a.key=u32:", "is not a value of type u32"),
    "NaN": ("a.key=f32:nan", "a finite number"),
    "infinite": ("a.key=f64:inf", "a finite number"),
    "too large for binary32": ("a.key=f32:1e39", "a finite number"),
    "underscores in a float": ("a.key=f32:1_000", "a finite number"),
    "white space": ("a.key=f64: 1", "a finite number"),
    "no number": ("a.key=f32:one", "a finite number"),
    "neither true nor false": ("a.key=bool:1", "true or false"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_assignments(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_assignment(text)


def test_strings_from_files(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        parse_assignment(f"a.key=str:@{tmp_path}/none")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match="not UTF-8: byte 3"):
        parse_assignment(f"a.key=str:@{tmp_path}/latin")


def test_a_link_is_not_replaced(model: Path, converted: bytes, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    with pytest.raises(UsageError, match="symbolic link"):
        edit(link, [("general.name", string("x"))])
    edit(link, [("general.name", string("x"))], output=tmp_path / "out.gguf")
    assert link.is_symlink() and model.read_bytes() == converted


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidError, match="C-035"):
        edit(tmp_path / "pipe", [("general.name", string("x"))])
    with pytest.raises(UsageError, match="threads"):
        edit(tmp_path / "pipe", [("general.name", string("x"))], threads=0)


def test_permissions_stay(model: Path) -> None:
    model.chmod(0o640)
    edit(model, [("general.name", string("x"))])
    assert model.stat().st_mode & 0o777 == 0o640


def test_a_file_that_changes_meanwhile(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = platform.pwrite_all

    def touched(*arguments: object) -> None:
        os.utime(model, ns=(1, 1))
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(platform, "pwrite_all", touched)
    with pytest.raises(InvalidError, match="R-002"):
        edit(model, [("general.name", string("x"))])
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def test_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read is larger than a piece, however large the tensor."""
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": np.zeros(6 * 2**20, np.float32)})
    conversion.convert(source, tmp_path / "out.gguf", type="f32", architecture="any")
    sizes: list[int] = []
    read = platform.read_at

    def counted(fd: int, nbytes: int, offset: int) -> bytes:
        sizes.append(nbytes)
        return read(fd, nbytes, offset)

    monkeypatch.setattr(platform, "read_at", counted)
    edit(tmp_path / "out.gguf", [("general.name", string("x"))])
    assert sum(sizes) >= 24 * 2**20 and max(sizes) == editing.PIECE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted(tmp_path: Path, number: int) -> None:
    """The file as it was, nothing beside it, and soon."""
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": np.zeros(2**26, np.float32)})
    model = tmp_path / "model.gguf"
    conversion.convert(source, model, type="f32", architecture="any")
    command = [sys.executable, "-m", "gguflow", "edit", str(model), "--set", "general.name=str:x"]
    for _ in range(5):  # on a busy machine the edit may be over before the signal comes
        before = model.stat()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (tmp_path / ".model.gguf.partial").exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(number)
        shown, errors = process.communicate(timeout=60)
        if process.returncode != ExitStatus.OK:
            break
    assert (process.returncode, shown, errors) == (ExitStatus.INTERRUPTED, "", "gguflow: interrupted\n")
    after = model.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "x.safetensors"]


def test_no_room(model: Path, converted: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(platform, "preallocate", full)
    with pytest.raises(StorageError, match="no space left"):
        edit(model, [("general.name", string("x"))])
    assert model.read_bytes() == converted
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def test_from_the_command_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "edit",
                str(model),
                "--set",
                "general.name=str:\x1b[2J",
                "--set",
                "a.b=u8:3",
                "--remove",
                "general.file_type",
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert captured.out == f"{model}\n"
    assert "general.file_type" in captured.err and "\x1b" not in captured.err
    assert main(["edit", str(model), "--set", "a.b=u8:300"]) == 2
    assert main(["edit", str(model), "--remove", "a.c"]) == 2
    assert main(["edit", str(model.parent / "none.gguf"), "--remove", "a.b"]) == 4
    model.write_bytes(model.read_bytes()[:-1] + b"\1")
    assert main(["edit", str(model), "--remove", "a.b", "-q"]) == 3
    assert "damaged data" in capsys.readouterr().err
