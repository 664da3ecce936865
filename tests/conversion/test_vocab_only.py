"""Vocabularies: the keys and the tokenizer of a checkpoint, without tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gguflow import conversion, exporting
from gguflow.cli import main
from gguflow.container.reader import open_file
from gguflow.conversion.splitting import Split
from gguflow.errors import UsageError
from gguflow.validation import examine
from testing.checkpoints import TINY


def without_weights(directory: Path) -> Path:
    """A download of all but the weights."""
    shutil.copytree(TINY, directory, ignore=shutil.ignore_patterns("*.safetensors*"))
    return directory


def plain(path: Path) -> dict[str, Any]:
    values = {key: value.value for key, value in open_file(path).header.metadata.items()}
    return {
        key: list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
        for key, value in values.items()
    }


def test_the_keys_are_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what is about weights: size, source and digests. llama.cpp's name, and its file type."""
    monkeypatch.chdir(tmp_path)
    conversion.convert(TINY, "model.gguf", type="f16")
    report = conversion.convert(without_weights(tmp_path / TINY.name), vocab_only=True)
    assert report.output == Path("Tiny-Py-Llama-vocab.gguf")
    assert (report.n_tensors, report.n_weights) == (0, 0)
    model, vocabulary = plain(tmp_path / "model.gguf"), plain(report.output)
    about_weights = {key for key in model if key.startswith("gguflow.")} | {"general.size_label"}
    assert {key: value for key, value in vocabulary.items() if key not in about_weights} == {
        key: value for key, value in model.items() if key not in about_weights
    }
    assert vocabulary["general.file_type"] == 1
    assert "general.size_label" in model.keys() - vocabulary.keys()
    assert not open_file(report.output).header.tensors
    assert examine(report.output, "strict") == ("valid", [])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "{type}.gguf"
    arguments = ["convert", str(TINY), "--vocab-only", "-o", str(out), "--model-name", "New Name", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["n_tensors"] == 0
    assert plain(tmp_path / "vocab.gguf")["general.name"] == "New Name"
    assert main(["inspect", str(tmp_path / "vocab.gguf")]) == 0
    assert "a vocabulary, " in capsys.readouterr().out
    assert main(["validate", str(tmp_path / "vocab.gguf"), "--level", "strict"]) == 0


def test_nothing_to_export(tmp_path: Path) -> None:
    conversion.convert(TINY, tmp_path / "v.gguf", vocab_only=True)
    with pytest.raises(UsageError, match="no tensors"):
        exporting.export(tmp_path / "v.gguf", tmp_path / "out.safetensors")


def test_a_name_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As llama.cpp's converter names vocabularies, though the directory's name has one."""
    monkeypatch.chdir(tmp_path)
    directory = without_weights(tmp_path / "Example-8B-Instruct-v2")
    plan = conversion.prepare(directory, vocab_only=True).targets[0]
    assert plan.paths == (Path("Example-Instruct-v2-vocab.gguf"),)


@pytest.mark.parametrize(
    "options",
    [
        {"type": "q8_0"},
        {"architecture": "llama"},
        {"strip_prefix": "x."},
        {"skip_tensors": ["x"]},
        {"shards": Split(max_tensors=1)},
        {"imatrix": "x.gguf"},
        {"include_weights": ["x"]},
    ],
)
def test_what_is_about_tensors_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vocab-only|--imatrix"):
        conversion.prepare(TINY, tmp_path / "x.gguf", vocab_only=True, **options)


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_only_of_directories(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match="directory"):
        conversion.prepare(tmp_path / name, vocab_only=True)
