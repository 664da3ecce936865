"""Files that are empty, cut, another's, or missing: refused, and named for what they are, with what to do."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gguflow import models, sources, validate
from gguflow.conversion import convert
from gguflow.errors import FileError, InvalidError, LimitError, MalformedError, UnsupportedError
from gguflow.models.base import Model
from gguflow.models.tokenizers import sentencepiece_model
from gguflow.models.tokenizers.sentencepiece_model import read_pieces
from testing.checkpoints import TINY
from testing.families import BPE, CONFIGS, N_TOKENS, checkpoint, files, random_checkpoint, shapes

MODEL = (TINY / "tokenizer.model").read_bytes()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 499723\n"
TIKTOKEN = b"".join(
    base64.b64encode(text) + b" %d\n" % rank for rank, text in enumerate((b"!", b'"', b"ab", b" the"))
)
WEB_PAGE = b"<!DOCTYPE html><html><head><title>401</title></head></html>"


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def piece(text: bytes, kind: int = 1, score: bytes = b"\0\0\0\0") -> bytes:
    return message(1, message(1, text) + b"\x15" + score + b"\x18" + varint(kind))


UNKNOWN = piece(b"<unk>", 2)
TRAINER = message(2, b"\x18\x02")


def load(
    directory: Path, contents: dict[str, Any], raw: Mapping[str, bytes] | None = None, family: str = "llama"
) -> Model:
    """The model of a small checkpoint; raw: side files by name, as bytes."""
    found = checkpoint(directory, contents, shapes(family))
    for name, content in (raw or {}).items():
        (directory / name).write_bytes(content)
    return models.load(found)


END = 2 + MODEL[1]
"""Where the first piece of the real file ends: its field has one byte of tag and one of length."""

NOT_A_MODEL: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty.*fetch it again"),
    "cut inside a piece": (MODEL[:1000], "cut by an interrupted download"),
    "cut between two pieces": (MODEL[:END], "ends too early.*fetch it again"),
    "cut inside the trainer's settings": (MODEL[:59000], "too early|cut"),
    "a Git LFS pointer": (POINTER, "Git LFS pointer.*git lfs pull"),
    "tiktoken": (TIKTOKEN, "tiktoken.*tokenizer.json"),
    "tiktoken, one line": (b"IQ== 0", "tiktoken"),
    "a web page": (WEB_PAGE, "web page"),
    "tokenizer.json under this name": (json.dumps(BPE).encode(), "JSON.*give it that name"),
    "zeros": (bytes(1000), "zeros|without a number"),
    "a GGUF file": (b"GGUF\3\0\0\0", "not a SentencePiece model"),
    "text": (b"no protobuf", "not a SentencePiece model"),
    "a number without an end": (b"\xff" * 20, "number without an end"),
    "a piece twice": (UNKNOWN + piece(b"a") * 2 + TRAINER, "twice"),
    "a piece without text": (UNKNOWN + piece(b"") + TRAINER, "without text"),
    "a piece that is not UTF-8": (UNKNOWN + piece(b"\xff") + TRAINER, "not UTF-8"),
    "a score that is NaN": (UNKNOWN + piece(b"a", score=b"\0\0\xc0\x7f") + TRAINER, "finite"),
    "no unknown piece": (piece(b"a") + TRAINER, "unknown"),
    "two unknown pieces": (UNKNOWN + piece(b"a", 2) + TRAINER, "unknown"),
    "a length beyond the file": (UNKNOWN + b"\x0a\xff\xff\xff\xff\x0f", "passes the end"),
    "a group": (UNKNOWN + b"\x0b\x0c" + TRAINER, "a kind that such files do not have"),
}


@pytest.mark.parametrize(("content", "says"), NOT_A_MODEL.values(), ids=NOT_A_MODEL.keys())
def test_a_tokenizer_model_that_is_none(
    content: bytes, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MalformedError, match=f"tokenizer.model: M-021: .*{says}"):
        load(tmp_path, files("llama"), {"tokenizer.model": content})
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_model_made_by_hand() -> None:
    """The pieces above are good ones: only what a case breaks is wrong with it. Unknown fields do not
    matter, the last value of a field counts, unknown types are normal.
    """
    pieces = UNKNOWN + piece(b"a", 3) + piece(b"b", 99, b"\0\0\x80\x3f")
    content = pieces + message(9, b"x") + TRAINER + b"\x39" + bytes(8)
    assert [tuple(found) for found in read_pieces(content, Path("m"))] == [
        ("<unk>", 0.0, 2),
        ("a", 0.0, 3),
        ("b", 1.0, 1),
    ]


def test_too_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece_model, "MAX_PIECES", 2)
    assert len(read_pieces(UNKNOWN + piece(b"a") + TRAINER, Path("m"))) == 2
    with pytest.raises(LimitError, match="M-026"):
        read_pieces(UNKNOWN + piece(b"a") + piece(b"b") + TRAINER, Path("m"))


WHOLE = json.dumps(BPE).encode()
NOT_JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty.*fetch it again"),
    "white space": (b" \n", "empty"),
    "cut": (WHOLE[: len(WHOLE) // 2], "ends too early.*fetch it again"),
    "cut inside a string": (WHOLE[:20], "ends too early"),
    "a Git LFS pointer": (POINTER, "Git LFS pointer.*git lfs pull"),
    "a web page": (WEB_PAGE, "web page"),
    "a mistake in the middle": (b'{"a" 1}', "not JSON: [^;]*, byte 5"),
}


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("content", "says"), NOT_JSON.values(), ids=NOT_JSON.keys())
def test_a_json_file_that_is_none(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=f"{name}: (J-002|M-021): .*{says}"):
        load(tmp_path, files("llama"), {name: content})


@pytest.mark.parametrize(("content", "says"), NOT_JSON.values(), ids=NOT_JSON.keys())
def test_recommended_parameters_that_are_no_json_are_left_out(
    content: bytes, says: str, tmp_path: Path
) -> None:
    """What generation_config.json recommends is left out with a warning: a model works without it."""
    model = load(tmp_path, files("llama"), {"generation_config.json": content})
    (warning,) = [warning for warning in model.warnings if warning.finding.rule == "M-042"]
    assert re.search(says.partition(", byte")[0], str(warning))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", POINTER], ids=["empty", "pointer"])
def test_a_file_of_the_weights_that_is_none(name: str, content: bytes, tmp_path: Path) -> None:
    directory = random_checkpoint(tmp_path / "model", "llama")
    (directory / name).write_bytes(content)
    says = "Git LFS pointer.*git lfs pull" if content else "is empty.*fetch it again"
    with pytest.raises(FileError, match=f"{name}: .*{says}"):
        sources.open_checkpoint(directory)


@pytest.mark.parametrize("name", ["vocab.txt", "chat_template.jinja", "added_tokens.json"])
def test_a_pointer_in_the_place_of_a_side_file(name: str, tmp_path: Path) -> None:
    contents = files("bert" if name == "vocab.txt" else "llama")
    if name == "vocab.txt":
        contents.pop("tokenizer.json")
    contents.get("tokenizer_config.json", {}).pop("chat_template", None)
    if name == "added_tokens.json":
        tmp_path.joinpath("tokenizer.model").write_bytes(MODEL)
    family = "bert" if name == "vocab.txt" else "llama"
    with pytest.raises(MalformedError, match=f"{name}: M-021: .*Git LFS pointer.*git lfs pull"):
        load(tmp_path, contents, {name: POINTER}, family)


MISSING: dict[str, tuple[str, tuple[str, ...], str]] = {
    "nothing": ("llama", (), "neither tokenizer.json nor tokenizer.model; copy it from"),
    "tekken.json": ("llama", ("tekken.json",), "tekken.json is Mistral's own format.*save_pretrained"),
    "vocab.json and merges.txt": (
        "llama",
        ("vocab.json", "merges.txt"),
        "vocab.json and merges.txt alone.*save_pretrained",
    ),
    "vocab.json alone": ("qwen2", ("vocab.json",), "nor tokenizer.model; copy it from.*found vocab.json"),
    "Qwen3": ("qwen3", (), "neither|there is no tokenizer.json"),
    "BERT": ("bert", (), "neither tokenizer.json nor vocab.txt"),
    "a list for BERT": ("llama", ("vocab.txt",), "vocab.txt is a list for BERT"),
}


@pytest.mark.parametrize(("family", "there", "says"), MISSING.values(), ids=MISSING.keys())
def test_a_missing_tokenizer(family: str, there: tuple[str, ...], says: str, tmp_path: Path) -> None:
    contents = files(family)
    contents.pop("tokenizer.json")
    with pytest.raises(InvalidError, match=f"M-023: .*{says}"):
        load(tmp_path, {**contents, **{name: {} for name in there}}, family=family)


def test_a_token_beyond_the_matrix(tmp_path: Path) -> None:
    contents = files("llama")
    contents["tokenizer.json"]["added_tokens"].append({"id": N_TOKENS, "content": "[PAD]", "special": True})
    with pytest.raises(InvalidError, match=r"M-025: .*\[PAD\].*remove it from.*resize_token_embeddings"):
        load(tmp_path, contents)


def test_a_unigram_tokenizer(tmp_path: Path) -> None:
    contents = files("bert")
    contents["tokenizer.json"]["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}
    with pytest.raises(UnsupportedError, match=r"M-024: .*Unigram tokenizers are not supported: --arch"):
        load(tmp_path, contents, family="bert")


BEYOND: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "bos in config.json": ({"bos_token_id": 151643}, {"bos_token": None}, {"eos_token_id": 1}),
    "every one": (
        {"bos_token_id": N_TOKENS, "eos_token_id": 99, "pad_token_id": 99},
        {"bos_token": None, "eos_token": None},
        {},
    ),
    "a token that is added to texts": (
        {"bos_token_id": 99},
        {"bos_token": None, "add_bos_token": True},
        {"eos_token_id": 1, "add_bos_token": False},
    ),
    "none, as -1": ({"pad_token_id": -1}, {}, {"bos_token_id": 0, "eos_token_id": 1}),
    "the last one": (
        {"pad_token_id": N_TOKENS - 1},
        {},
        {"bos_token_id": 0, "eos_token_id": 1, "padding_token_id": N_TOKENS - 1},
    ),
}


@pytest.mark.parametrize(("config", "settings", "expected"), BEYOND.values(), ids=BEYOND.keys())
def test_special_ids_beyond_the_vocabulary(
    config: dict[str, Any], settings: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    """Left out, and the difference named; what is written is valid to our own validator."""
    directory = random_checkpoint(tmp_path / "model", "llama")
    contents = files("llama")
    contents["config.json"] |= config
    contents["tokenizer_config.json"] |= settings
    contents["tokenizer.json"].pop("post_processor")
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    model = models.load(sources.open_checkpoint(directory))
    prefix = "tokenizer.ggml."
    found = {
        key.removeprefix(prefix): value.value
        for key, value in model.metadata.items()
        if key.endswith(("_token_id", "_bos_token"))
    }
    assert found == expected
    noted = any(isinstance(value, int) and value >= N_TOKENS for value in config.values())
    assert ("special-id-beyond-vocabulary" in model.differences) == noted
    report = convert(directory, tmp_path / "out.gguf", type="f16")
    assert report.differences == model.differences
    assert validate(tmp_path / "out.gguf") == []


def test_special_ids_beyond_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    """Here llama.cpp's converter leaves them out too: no difference."""
    shutil.copy(TINY / "tokenizer.model", tmp_path)
    model = load(
        tmp_path,
        {"config.json": {**CONFIGS["llama"], "pad_token_id": 99999}, "tokenizer_config.json": {}},
    )
    assert "tokenizer.ggml.padding_token_id" not in model.metadata
    assert model.differences == ()


@pytest.mark.parametrize(
    "name",
    ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"],
)
@pytest.mark.parametrize("target", ["gone", "sub/gone", "config.json/gone"])
def test_a_link_to_nothing_is_no_absent_file(tmp_path: Path, name: str, target: str) -> None:
    """A snapshot whose blob was cleared away must not lose its template or tokens without a word."""
    directory = tmp_path / "checkpoint"
    shutil.copytree(TINY, directory)
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(target)
    with pytest.raises(InvalidError, match="H-019: a link to a file that does not exist"):
        convert(directory, tmp_path / "out.gguf", type="f16")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(("name", "rule"), [("generation_config.json", "M-042"), ("README.md", "M-020")])
def test_a_link_to_nothing_never_stops_for_what_is_not_needed(tmp_path: Path, name: str, rule: str) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(TINY, directory)
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to("gone")
    warnings = convert(directory, tmp_path / "out.gguf", type="f16").warnings
    assert rule in [warning.finding.rule for warning in warnings]
