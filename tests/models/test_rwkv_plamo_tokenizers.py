"""The vocabularies of RWKV and PLaMo, which are files of lines: what is taken, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguflow.errors import FileError
from gguflow.models.documents import Document
from gguflow.models.tokenizers import plamo, rwkv
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.plamo import plamo_metadata
from gguflow.models.tokenizers.rwkv import rwkv_world_metadata

N_TOKENS = 8


def files(
    directory: Path, name: str, content: str, settings: dict[str, object] | None = None
) -> TokenizerFiles:
    (directory / name).write_text(content, encoding="utf-8")
    if settings is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = Document(directory / "config.json", {"vocab_size": N_TOKENS})
    return TokenizerFiles.read(config, directory)


WORLD = {
    "1 '\\x00' 1\n2 b'\\xff' 1\n": ["<s>", "\\x00", "\\xff"],
    "1 '\u00e9' 2\n2 \"it's\" 4\n": ["<s>", "\\xc3\\xa9", "it's"],
    "1 '\\n\\n' 2\n2 ' ' 1\n": ["<s>", "\\n\\n", " "],
    "1 'a \"b' 4\n": ["<s>", 'a "b'],
}
"""The file -> the first tokens: bytes as Python writes them."""


@pytest.mark.parametrize(("content", "expected"), WORLD.items())
def test_world_vocabulary(content: str, expected: list[str], tmp_path: Path) -> None:
    keys = rwkv_world_metadata(files(tmp_path, rwkv.FILE, content))
    assert keys["tokenizer.ggml.tokens"].value[: len(expected)] == expected
    assert len(keys["tokenizer.ggml.tokens"].value) == N_TOKENS
    assert "tokenizer.ggml.pre" not in keys
    assert keys["tokenizer.ggml.bos_token_id"].value == keys["tokenizer.ggml.eos_token_id"].value == 0
    assert "tokenizer.ggml.eot_token_id" not in keys, "the vocabulary has no token 261"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("1 'a' 2\n", "M-021"),
        ("1 a 1\n", "M-021"),
        ("x 'a' 1\n", "M-021"),
        ("1 'a'\n", "M-021"),
        ("1 '\\N{nothing}' 1\n", "M-021"),
        ("1 '\\ud800' 3\n", "M-021"),
        ("1 'a' + 'b' 2\n", "M-021"),
        (f"1 '{'a' * 5000}' 5000\n", "M-021"),
        ("".join(f"{i} 'a' 1\n" for i in range(1, N_TOKENS + 1)), "M-025"),
    ],
)
def test_world_vocabulary_that_is_refused(content: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        rwkv_world_metadata(files(tmp_path, rwkv.FILE, content))
    assert caught.value.finding.rule == rule


@given(st.binary(min_size=1, max_size=40).filter(lambda token: b"\n" not in token))
def test_every_byte_string_comes_through(token: bytes) -> None:
    assert rwkv._token(f"1 {token!r} {len(token)}") == token


@given(st.text(max_size=60))
def test_no_line_makes_a_traceback(line: str) -> None:
    found = rwkv._token(line)
    assert found is None or isinstance(found, bytes)


def test_plamo_vocabulary(tmp_path: Path) -> None:
    lines = (
        ["<unk>", 0.0, "UNKNOWN"],
        ["<|plamo:bos|>", 0.0, "NORMAL"],
        ["<0x00>", 0, "BYTE", None],
        ["the", -1.5],
        ["<eos>", 0.0, "CONTROL"],
    )
    content = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    settings: dict[str, object] = {
        "bos_token": "<|plamo:bos|>",
        "eos_token": {"content": "<eos>"},
        "pad_token": None,
    }
    keys = plamo_metadata(files(tmp_path, plamo.FILE, content, settings))
    assert keys["tokenizer.ggml.tokens"].value[3:] == ["the", "<eos>", "[PAD1]", "[PAD2]", "[PAD3]"]
    assert keys["tokenizer.ggml.token_type"].value == [2, 3, 6, 1, 3, 5, 5, 5]
    assert keys["tokenizer.ggml.scores"].value == [0, 0, 0, -1.5, 0, -1000, -1000, -1000]
    ids = [keys[f"tokenizer.ggml.{kind}_token_id"].value for kind in ("bos", "eos", "eot")]
    assert ids == [1, 4, plamo.END_OF_TURN]
    assert keys["tokenizer.ggml.add_space_prefix"].value is False


@pytest.mark.parametrize(
    ("content", "settings", "rule"),
    [
        ('["a"]\n', {}, "M-021"),
        ('{"a": 1}\n', {}, "M-021"),
        ('["a", "b"]\n', {}, "M-021"),
        ('["a", true]\n', {}, "M-021"),
        ('["a", NaN]\n', {}, "J-002"),
        ('["a", 1e40]\n', {}, "M-021"),
        ('["a", 0, 1]\n', {}, "M-021"),
        ('["a", 0]\n', {"bos_token": "b"}, "M-003"),
        ('["a", 0]\n' * (N_TOKENS + 1), {}, "M-025"),
    ],
)
def test_plamo_vocabulary_that_is_refused(
    content: str, settings: dict[str, object], rule: str, tmp_path: Path
) -> None:
    with pytest.raises(FileError) as caught:
        plamo_metadata(files(tmp_path, plamo.FILE, content, settings))
    assert caught.value.finding.rule == rule
