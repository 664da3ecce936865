"""Tokenizers: the ids, the pieces and the ends are llama.cpp's, on texts that have broken tokenizers
before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguflow
from gguflow.errors import UnsupportedError, UsageError
from gguflow.inference.byte_pair import BytePair
from gguflow.inference.pre_tokenizers import SPLITTERS, Splitter
from gguflow.inference.tokenizer import Tokenizer
from gguflow.models.tokenizers.encoding.merging import merge
from testing.checkpoints import TINY
from testing.llama_library import Llama
from testing.vocabularies import TEXTS, byte_level_file, random_texts


@dataclass(frozen=True)
class Both:
    """A vocabulary, as we and as llama.cpp have it."""

    ours: Tokenizer
    theirs: Llama


def tokenizer_of(path: Path) -> Tokenizer:
    with gguflow.open(path) as model:
        return Tokenizer(model.metadata, model.path)


@pytest.fixture(scope="module", params=["SentencePiece", "byte-level"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("vocabulary")
    if request.param == "byte-level":
        path = byte_level_file(directory / "model.gguf", "llama-bpe")
    else:
        path = gguflow.convert(TINY, directory / "model.gguf", type="q8_0").output
    with Llama(path, vocab_only=True) as theirs:
        yield Both(tokenizer_of(path), theirs)


@pytest.mark.parametrize("parse_special", [True, False], ids=["special", "plain"])
@pytest.mark.parametrize("add_special", [True, False], ids=["framed", "bare"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ids(both: Both, text: str, add_special: bool, parse_special: bool) -> None:
    ours = both.ours.encode(text, add_special=add_special, parse_special=parse_special)
    assert ours == both.theirs.tokenize(text, add_special=add_special, parse_special=parse_special)


def test_ids_of_a_long_text(both: Both) -> None:
    text = (TINY / "heldout.txt").read_text(encoding="utf-8")[:40_000]
    assert both.ours.encode(text) == both.theirs.tokenize(text)


def test_ids_of_random_texts(both: Both) -> None:
    for text in random_texts(300):
        assert both.ours.encode(text) == both.theirs.tokenize(text), text


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=80))
def test_ids_of_any_text(both: Both, text: str) -> None:
    """Of characters that Python's Unicode has: those of later versions are letters for one and unassigned for
    the other.
    """
    assert both.ours.encode(text) == both.theirs.tokenize(text)


def test_pieces(both: Both) -> None:
    """Every token's bytes, with and without the names of special tokens."""
    assert len(both.ours) == both.theirs.n_tokens
    for token in range(len(both.ours)):
        for special in (True, False):
            assert both.ours.piece(token, special=special) == both.theirs.piece(token, special=special), token


def test_ends(both: Both) -> None:
    assert both.ours.special.ends == both.theirs.ends()
    assert both.ours.special.ends


@given(text=st.text(max_size=80))
def test_decode_gives_the_text_back(both: Both, text: str) -> None:
    """But for SentencePiece's space, which goes before the first word and may stand for itself."""
    written = f" {text}".replace("▁", " ") if text and not isinstance(both.ours.model, BytePair) else text
    assert both.ours.decode(both.ours.encode(text, parse_special=False)) == written


ONE_OF_EACH: dict[Splitter, str] = {}
for _name, _splitter in SPLITTERS.items():
    ONE_OF_EACH.setdefault(_splitter, _name)


@pytest.mark.parametrize("pre", ONE_OF_EACH.values())
def test_pre_tokenizers(tmp_path: Path, pre: str) -> None:
    """Every way of cutting, with a vocabulary in which nearly any two bytes merge that are not cut apart."""
    path = byte_level_file(tmp_path / "model.gguf", pre)
    ours = tokenizer_of(path)
    with Llama(path, vocab_only=True) as theirs:
        for text in (*TEXTS.values(), *random_texts(300)):
            assert ours.encode(text) == theirs.tokenize(text), text


def test_pre_tokenizers_differ(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    texts = (*TEXTS.values(), *random_texts(300))
    words = {tuple(tuple(splitter.words(text)) for text in texts) for splitter in ONE_OF_EACH}
    assert len(words) >= len({splitter.expressions for splitter in ONE_OF_EACH}) - 1, (
        "bailingmoe and qwen2 cut the same texts the same way"
    )


@pytest.mark.parametrize("pre", ONE_OF_EACH.values())
def test_words_are_the_text(pre: str) -> None:
    for text in (*TEXTS.values(), *random_texts(30)):
        words = SPLITTERS[pre].words(text)
        assert "".join(words) == text
        assert all(words)


@pytest.mark.parametrize(
    ("symbols", "ranks", "merged"),
    [
        pytest.param("aaa", {"aa": 0}, ["aa", "a"], id="leftmost first"),
        pytest.param("abc", {"ab": 1, "bc": 0}, ["a", "bc"], id="lowest first"),
        pytest.param("abcd", {"bc": 0, "abc": 1, "abcd": 2, "cd": 3}, ["abcd"], id="grown on both sides"),
        pytest.param("abab", {"ab": 0, "abab": 1}, ["abab"], id="merged ones merge"),
        pytest.param("", {}, [], id="nothing"),
        pytest.param("a", {}, ["a"], id="one"),
    ],
)
def test_merge(symbols: str, ranks: dict[str, float], merged: list[str]) -> None:
    assert merge(symbols, lambda left, right: ranks.get(left + right)) == merged


SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "▁a", "", "<0x41>"],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 6],
}


@pytest.mark.parametrize(
    ("change", "text", "ids"),
    [
        pytest.param({}, "a", [1, 4], id="as it is"),
        pytest.param({"tokenizer.ggml.add_space_prefix": False}, "a", [1, 3], id="no space"),
        pytest.param({"tokenizer.ggml.add_bos_token": False}, "a", [4], id="no first token"),
        pytest.param({"tokenizer.ggml.add_eos_token": True}, "a", [1, 4, 2], id="a last token"),
        pytest.param({"tokenizer.ggml.bos_token_id": 2}, "a", [2, 4], id="another first token"),
        pytest.param({}, "A", [1, 0, 0, 0, 6], id="bytes that are no tokens are unknown"),
        pytest.param({}, "a</s>a", [1, 4, 2, 4], id="a space after each special token"),
    ],
)
def test_flags(change: dict[str, Any], text: str, ids: list[int]) -> None:
    assert Tokenizer(SENTENCEPIECE | change, "model.gguf").encode(text) == ids


@pytest.mark.parametrize(
    ("change", "rule", "found"),
    [
        pytest.param({"tokenizer.ggml.model": "bert"}, "X-010", "bert", id="another kind"),
        pytest.param(
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "new\x1b"},
            "X-011",
            "new\\x1b",
            id="another pre-tokenizer",
        ),
    ],
)
def test_what_is_refused(change: dict[str, Any], rule: str, found: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        Tokenizer(SENTENCEPIECE | change, "model.gguf")
    assert (caught.value.finding.rule, caught.value.finding.found) == (rule, found)


def test_a_file_without_a_tokenizer() -> None:
    with pytest.raises(UnsupportedError, match="X-010"):
        Tokenizer({}, "model.gguf")


def test_stray_bytes_are_refused() -> None:
    with pytest.raises(UsageError, match="at character 1"):
        Tokenizer(SENTENCEPIECE, "model.gguf").encode("a\udcff")
