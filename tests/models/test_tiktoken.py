"""Byte-level BPE from tokens by rank."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from gguflow.errors import FileError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.ranks import last_merges
from gguflow.models.tokenizers.tiktoken import read_ranks, tiktoken_metadata

LETTERS = [b"a", b"b", b"c", b" "]


def files(directory: Path, tokens: list[bytes], n_tokens: int = 12) -> TokenizerFiles:
    """A checkpoint's files with these tokens, ranked as they come."""
    lines = [base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens)]
    (directory / "x.tiktoken").write_bytes(b"".join(lines))
    return TokenizerFiles(
        directory, Document(directory / "config.json", {"vocab_size": n_tokens}), None, None
    )


def test_merges_follow_from_ranks(tmp_path: Path) -> None:
    """A token's parts are what earlier tokens make of it: "abc" is "ab c" where "ab" comes before "bc"."""
    found = files(tmp_path, [*LETTERS, b"ab", b"bc", b"abc", b" a", b" abc"])
    ranks = read_ranks(found, "x.tiktoken")
    assert last_merges(ranks, tmp_path) == ["a b", "b c", "ab c", "Ġ a", "Ġ abc"]


def test_special_tokens_come_after_the_ranks(tmp_path: Path) -> None:
    found = files(tmp_path, [*LETTERS, b"ab"], n_tokens=8)
    keys = tiktoken_metadata(found, read_ranks(found, "x.tiktoken"), ("<|end|>", "<|x|>"), "qwen2")
    tokens = list(keys["tokenizer.ggml.tokens"].value)
    assert tokens == ["a", "b", "c", "Ġ", "ab", "<|end|>", "<|x|>", "[PAD7]"]
    assert list(keys["tokenizer.ggml.token_type"].value) == [1, 1, 1, 1, 1, 3, 3, 5]


@pytest.mark.parametrize(
    ("content", "rule", "says"),
    [
        (b"", "M-021", "0 tokens"),
        (b"YQ== 0\nYQ== 1\n", "M-025", "line 2"),
        (b"YQ== 1\n", "M-021", "from 0 on"),
        (b"YQ==\n", "M-021", "line 1"),
        (b"!!! 0\n", "M-021", "line 1"),
        (b"YQ== -1\n", "M-021", "line 1"),
        (base64.b64encode(b"a" * 9000) + b" 0\n", "M-026", "too long"),
    ],
    ids=["empty", "twice", "a hole", "no rank", "no base64", "negative", "long"],
)
def test_what_is_no_list_of_tokens(content: bytes, rule: str, says: str, tmp_path: Path) -> None:
    found = files(tmp_path, LETTERS)
    (tmp_path / "x.tiktoken").write_bytes(content)
    with pytest.raises(FileError) as caught:
        read_ranks(found, "x.tiktoken")
    assert caught.value.finding.rule == rule
    assert says in str(caught.value)


def test_a_token_that_no_others_make(tmp_path: Path) -> None:
    found = files(tmp_path, [*LETTERS, b"abc"])
    with pytest.raises(FileError) as caught:
        last_merges(read_ranks(found, "x.tiktoken"), tmp_path)
    assert caught.value.finding.rule == "M-028"
