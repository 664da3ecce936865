"""What is exported keeps the rules of safetensors, or is refused before a byte is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gguflow import exporting
from gguflow.blocks import FORMATS
from gguflow.cli import main
from gguflow.container.metadata import Metadata, string
from gguflow.errors import FileError, InvalidError
from gguflow.exporting.safetensors_header import build_header
from gguflow.sources import open_checkpoint, safetensors
from gguflow.sources.base import SourceFile
from gguflow.validation import examine, validate
from testing.gguf_files import array_file, one_tensor

KEYS: Metadata = {"general.architecture": string("llama")}
ONES = np.ones((2, 4), np.float32)


def source(path: Path, *names: str) -> Path:
    return array_file(path / "model.gguf", KEYS, dict.fromkeys(names, ONES))


REFUSED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "one name from two": (
        ("token_embd.weight", "model.embed_tokens.weight"),
        "J-003",
        "'token_embd.weight' and 'model.embed_tokens.weight'",
    ),
    "one name from two, the other way round": (
        ("lm_head.weight", "output.weight"),
        "J-003",
        "'lm_head.weight' and 'output.weight'",
    ),
    "the name of the texts": (("a", "__metadata__"), "S-006", "cannot have this name"),
}


@pytest.mark.parametrize(("names", "rule", "message"), REFUSED.values(), ids=REFUSED)
def test_names_that_a_file_cannot_have(
    names: tuple[str, ...], rule: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = source(tmp_path, *names), tmp_path / "out"
    with pytest.raises(FileError, match=message) as caught:
        exporting.export(path, out)
    assert caught.value.finding.rule == rule
    assert not out.exists()
    assert main(["export", str(path), "-o", str(out)]) == 3
    assert not out.exists()
    assert rule in capsys.readouterr().err


def test_a_header_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path, "a", "b")
    monkeypatch.setattr(safetensors, "MAX_HEADER_NBYTES", 150)
    with pytest.raises(FileError, match="S-004"):
        exporting.export(path, tmp_path / "out.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


def test_quotes_and_other_scripts_in_names(tmp_path: Path) -> None:
    names = ('a"b', "a\\b", "層.weight", "a/../b", "{}")
    exporting.export(source(tmp_path, *names), tmp_path / "out.safetensors", dtype="f32")
    assert load_file(tmp_path / "out.safetensors").keys() == set(names)
    assert validate(tmp_path / "out.safetensors") == []


SHAPES: dict[str, tuple[tuple[int, ...], str, bool]] = {
    "0 x 2**60 in F32": ((0, 2**60), "f32", True),
    "0 x 2**60 in F16": ((0, 2**60), "f16", True),
    "0 x 2**61 in F32, as many bytes as 2**63": ((0, 2**61), "f32", False),
    "0 x 2**61 in F16": ((0, 2**61), "f16", True),
    "0 x 2**62 in I8": ((0, 2**62), "i8", True),
    "2**62 x 0 in F64": ((2**62, 0), "f64", False),
    "2**31 x 2**32 x 0": ((2**31, 2**32, 0), "i8", False),
    "2**31 x 2**31 x 0": ((2**31, 2**31, 0), "i8", True),
    "0": ((0,), "f32", True),
}


@pytest.mark.parametrize(("shape", "dtype", "is_good"), SHAPES.values(), ids=SHAPES)
def test_both_readers_say_the_same_of_an_empty_tensor(
    shape: tuple[int, ...], dtype: str, is_good: bool, tmp_path: Path
) -> None:
    """C-015 and S-012 are one rule; and what is exported is what both read."""
    path = one_tensor(tmp_path / "model.gguf", FORMATS[dtype], shape, b"")
    header = build_header([("t", dtype.upper(), shape, 0, 0)], {})
    (tmp_path / "t.safetensors").write_bytes(header)
    verdicts = [examine(file)[0] for file in (path, tmp_path / "t.safetensors")]
    assert verdicts == ["valid" if is_good else "invalid"] * 2
    if not is_good:
        assert next(finding.rule for finding in examine(path)[1]) == "C-015"
        assert [finding.rule for finding in examine(tmp_path / "t.safetensors")[1]] == ["S-012"]
        return
    exporting.export(path, tmp_path / "out.safetensors", dtype="bf16")
    assert open_checkpoint(tmp_path / "out.safetensors").tensors["t"].shape == shape


def test_what_grows_when_it_is_decoded(tmp_path: Path) -> None:
    """2**62 weights of an empty tensor: in blocks of eight bits they can be addressed, in F32 they cannot."""
    path = one_tensor(tmp_path / "model.gguf", FORMATS["q8_0"], (0, 2**62), b"")
    with pytest.raises(InvalidError, match="S-012"):
        exporting.export(path, tmp_path / "out.safetensors", dtype="f32")
    assert not (tmp_path / "out.safetensors").exists()


HEADERS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "a tensor too long": (lambda: build_header([("t", "F32", (2,), 0, 12)], {}), 12, "S-015"),
    "bytes behind": (lambda: build_header([("t", "F32", (2,), 0, 8)], {}), 9, "S-018"),
    "a name twice": (lambda: build_header([("t", "F32", (), 0, 4), ("t", "F32", (), 4, 8)], {}), 8, "J-003"),
    "33 dimensions": (lambda: build_header([("t", "F32", (1,) * 33, 0, 4)], {}), 4, "S-011"),
}


@pytest.mark.parametrize(("build", "nbytes", "rule"), HEADERS.values(), ids=HEADERS)
def test_a_header_is_proved_before_it_is_written(build: Callable[[], bytes], nbytes: int, rule: str) -> None:
    header = build()
    with pytest.raises(FileError) as caught:
        safetensors.prove(header[8:], SourceFile(Path("out"), len(header) + nbytes, 0))
    assert caught.value.finding.rule == rule
