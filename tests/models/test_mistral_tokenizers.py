"""Mistral's own tokenizer files, where they are wrong or hostile, and the merges that are made of ranks."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguflow.errors import (
    FileError,
    InvalidError,
    LimitError,
    MalformedError,
    UnsupportedError,
    gathered_warnings,
)
from gguflow.models.documents import Document
from gguflow.models.tokenizers.encoding.byte_letters import spelt
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.mistral import has_only_mistral, mistral_metadata
from gguflow.models.tokenizers.ranks import MAX_WORK, all_merges, last_merges, read_ranks
from testing.tokenizer_cases import MISTRAL_PIECES, MISTRAL_SPECIAL, PIECES, spm_model, tekken_json

FILE = Path("qwen.tiktoken")
BYTES = {bytes([byte]): byte for byte in range(256)}


def files(directory: Path, n_tokens: int = 295) -> TokenizerFiles:
    config = directory / "config.json"
    config.write_text(json.dumps({"vocab_size": n_tokens}))
    document = Document.read(directory, "config.json")
    assert document is not None
    return TokenizerFiles.read(document, directory)


def changed(change: Callable[[dict[str, Any]], object], version: str = "v7") -> str:
    value = tekken_json(version, special=MISTRAL_SPECIAL)
    change(value)
    return json.dumps(value)


def token(text: bytes) -> str:
    return base64.b64encode(text).decode()


WRONG: dict[str, tuple[str, type[FileError], str]] = {
    "nothing": ("{}", InvalidError, r"M-002: .*version"),
    "a list": ("[]", MalformedError, "M-021"),
    "an unknown version": (changed(lambda v: v["config"].update(version="v99")), UnsupportedError, "M-024"),
    "no number of tokens": (
        changed(lambda v: v["config"].pop("default_vocab_size")),
        InvalidError,
        r"M-002: .*default_vocab_size",
    ),
    "more tokens promised": (
        changed(lambda v: v["config"].update(default_vocab_size=5000)),
        InvalidError,
        r"M-003: .*at most 296",
    ),
    "a giant number of special tokens": (
        changed(lambda v: v["config"].update(default_num_special_tokens=2**31 - 1)),
        InvalidError,
        r"M-003: .*default_num_special_tokens",
    ),
    "fewer special tokens than listed": (
        changed(lambda v: v["config"].update(default_num_special_tokens=4)),
        InvalidError,
        r"M-003: .*default_num_special_tokens",
    ),
    "a special token twice": (
        changed(lambda v: v["special_tokens"][5].update(token_str="<s>")),
        InvalidError,
        r"M-025: .*twice",
    ),
    "no end": (
        changed(lambda v: v["special_tokens"][2].update(token_str="<end>")),
        InvalidError,
        r"M-023: .*'</s>'",
    ),
    "ranks out of order": (changed(lambda v: v["vocab"][260].update(rank=261)), InvalidError, "M-003"),
    "not base64": (changed(lambda v: v["vocab"][260].update(token_bytes="é")), MalformedError, "M-021"),
    "an empty token": (changed(lambda v: v["vocab"][260].update(token_bytes="")), MalformedError, "M-021"),
    "a token twice": (
        changed(lambda v: v["vocab"][260].update(token_bytes=token(b"ab"))),
        InvalidError,
        r"M-025: .*twice",
    ),
    "bytes out of order": (
        changed(lambda v: v["vocab"][7].update(token_bytes=token(b"xy"))),
        InvalidError,
        r"M-003: .*the byte 7",
    ),
    "a token that nothing makes": (
        changed(lambda v: v["vocab"][260].update(token_bytes=token(b"qwxy"))),
        InvalidError,
        r"M-028: .*qwxy",
    ),
    "a giant token": (
        changed(lambda v: v["vocab"][260].update(token_bytes=token(b"q" * 9000))),
        LimitError,
        "M-026",
    ),
    "no special tokens": (
        changed(lambda v: v.pop("special_tokens"), "v11"),
        InvalidError,
        r"M-002: .*special_tokens",
    ),
}


@pytest.mark.parametrize(("content", "kind", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_tekken_file_that_is_wrong(content: str, kind: type[FileError], says: str, tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(content, encoding="utf-8")
    with pytest.raises(kind, match=rf"tekken.json: {says}"):
        mistral_metadata(files(tmp_path))


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(tekken_json("v7")))
    with pytest.raises(InvalidError, match="M-025"):
        mistral_metadata(files(tmp_path, 294))


@pytest.mark.parametrize("version", ["v2", "v15"])
def test_a_version_without_a_template(version: str, tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(changed(lambda v: None, version))
    with gathered_warnings() as said:
        keys = mistral_metadata(files(tmp_path))
    assert "tokenizer.chat_template" not in keys
    assert [warning.finding.rule for warning in said] == ["M-052"]


@pytest.mark.parametrize(
    ("there", "only"),
    [
        ((), False),
        (("tekken.json",), True),
        (("tekken.json", "tokenizer.json"), False),
        (("tekken.json", "tokenizer.model"), True),
        (("tokenizer.model",), False),
        (("tokenizer.model.v3",), True),
        (("tokenizer.model.v3", "tokenizer.model"), False),
        (("tokenizer.model.v99",), False),
    ],
)
def test_whose_files_count(there: tuple[str, ...], only: bool, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).write_text("{}")
    assert has_only_mistral(files(tmp_path)) is only


@pytest.mark.parametrize("lacks", ["<s>", "</s>"])
def test_sentencepiece_without_a_role(lacks: str, tmp_path: Path) -> None:
    pieces = [piece for piece in MISTRAL_PIECES if piece[0] != lacks]
    (tmp_path / "tokenizer.model.v3").write_bytes(spm_model(pieces, kind=2))
    with pytest.raises(InvalidError, match=rf"M-023: .*{lacks}"):
        mistral_metadata(files(tmp_path, 400))


def test_sentencepiece_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model.v3").write_bytes(spm_model(PIECES, kind=2))
    with pytest.raises(InvalidError, match="M-025"):
        mistral_metadata(files(tmp_path, len(PIECES) - 1))


LINES: dict[str, tuple[bytes, type[FileError], str]] = {
    "nothing": (b"", MalformedError, "0 tokens"),
    "one column": (b"YQ==\n", MalformedError, "line 1"),
    "no rank": (b"YQ== 0\nYg== x\n", MalformedError, "line 2"),
    "bad base64": (b"YQ= 0\n", MalformedError, "line 1|base64"),
    "a rank twice": (b"YQ== 0\nYg== 0\n", MalformedError, "from 0 on"),
    "a token twice": (b"YQ== 0\nYQ== 1\n", InvalidError, "twice"),
    "a giant rank": (b"YQ== 99999999999\n", MalformedError, "line 1"),
}


@pytest.mark.parametrize(("content", "kind", "says"), LINES.values(), ids=LINES.keys())
def test_a_tiktoken_file_that_is_wrong(content: bytes, kind: type[FileError], says: str) -> None:
    with pytest.raises(kind, match=says):
        read_ranks(content, FILE)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_vocabulary_or_an_error(content: bytes) -> None:
    with contextlib.suppress(FileError):
        assert read_ranks(content, FILE)


def test_the_worst_vocabulary_takes_seconds() -> None:
    """As many long tokens as are allowed."""
    length = 2048
    ranks = dict(BYTES)
    ranks |= {b"a" * n: 254 + n for n in range(2, 64)}
    ranks |= {b"a" * (length - i) + b"b" * i: 1000 + i for i in range(MAX_WORK // length**2 - 1)}
    started = time.perf_counter()
    last_merges(ranks, FILE, skips=True)
    assert time.perf_counter() - started < 60


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[bytes, int]:
    """Ranks that merges made, as a trainer makes them."""
    tokens = [bytes([byte]) for byte in b"abc"]
    for _ in range(draw(st.integers(0, 12))):
        joined = draw(st.sampled_from(tokens)) + draw(st.sampled_from(tokens))
        if joined not in tokens:
            tokens.append(joined)
    return {one: rank for rank, one in enumerate(tokens)}


def by_rank(ranks: dict[bytes, int], text: bytes) -> list[bytes]:
    """tiktoken's way: join the neighbours that together have the lowest rank."""
    parts = [text[i : i + 1] for i in range(len(text))]
    while True:
        pairs = [(ranks.get(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        lowest = min(((rank, i) for rank, i in pairs if rank is not None), default=None)
        if lowest is None:
            return parts
        i = lowest[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def by_merges(merges: list[str], text: bytes) -> list[str]:
    """GGUF's way: join the neighbours whose merge comes first."""
    order = {merge: i for i, merge in reversed(list(enumerate(merges)))}
    parts = list(spelt(text))
    while True:
        pairs = [(order.get(f"{a} {b}"), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        first = min(((place, i) for place, i in pairs if place is not None), default=None)
        if first is None:
            return parts
        i = first[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@given(vocabularies(), st.text("abc", max_size=16))
def test_all_merges_split_text_as_ranks_do(ranks: dict[bytes, int], text: str) -> None:
    found = by_merges(all_merges(ranks, FILE), text.encode())
    assert found == [spelt(part) for part in by_rank(ranks, text.encode())]
