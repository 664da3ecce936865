"""Texts of one long word, and long texts of which little is needed: bounded time and memory."""

from __future__ import annotations

import heapq
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguflow
from gguflow.errors import UsageError
from gguflow.inference.generation import Generation
from gguflow.inference.perplexity import cut
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from gguflow.models.tokenizers.encoding.merging import merge
from testing.fuzzing.models import models


def merge_with_pairs(symbols: Sequence[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """The same with a candidate for each pair, that knows what it joins: it takes much more memory."""
    texts = list(symbols)
    left_of = list(range(-1, len(texts) - 1))
    right_of = [*range(1, len(texts)), -1]
    candidates: list[tuple[float, int, int, str]] = []

    def propose(left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (priority := rank(texts[left], texts[right])) is not None:
            heapq.heappush(candidates, (priority, left, right, texts[left] + texts[right]))

    for left in range(len(texts) - 1):
        propose(left, left + 1)
    while candidates:
        _, left, right, joined = heapq.heappop(candidates)
        if not texts[left] or not texts[right] or texts[left] + texts[right] != joined:
            continue
        texts[left], texts[right] = joined, ""
        right_of[left] = right_of[right]
        if right_of[right] >= 0:
            left_of[right_of[right]] = left
        propose(left_of[left], left)
        propose(left, right_of[left])
    return [text for text in texts if text]


words = st.text("abc", min_size=2, max_size=5)


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text("abc", max_size=60),
        st.builds(lambda text, n: text * n, st.text("abc", max_size=4), st.integers(0, 40)),
    ),
    st.dictionaries(words, st.integers(0, 4), max_size=40),
)
def test_words_merge_as_with_pairs(text: str, ranks: dict[str, int]) -> None:
    """Ranks that are the same for several words, also where longer words come first."""

    def rank(left: str, right: str) -> float | None:
        return ranks.get(left + right)

    assert merge(text, rank) == merge_with_pairs(text, rank)


@settings(max_examples=200, deadline=None)
@given(st.text("abc", max_size=60), st.lists(st.tuples(words, words), max_size=30, unique=True))
def test_pairs_merge_as_with_pairs(text: str, merges: list[tuple[str, str]]) -> None:
    """Ranks of pairs, as byte-level BPE has them: one word may be made in two ways of different ranks."""
    singles = [(left, right) for left in "abc" for right in "abc"]
    ranks = {pair: i for i, pair in enumerate([*merges, *singles])}

    def rank(left: str, right: str) -> float | None:
        return ranks.get((left, right))

    assert merge(text, rank) == merge_with_pairs(text, rank)


def test_what_is_no_number_is_never_joined() -> None:
    ranks = {"ab": float("nan"), "bc": 1.0}
    assert merge("abc", lambda left, right: ranks.get(left + right)) == ["a", "bc"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Tokenizer, Any]]]:
    found = []
    for i, content in enumerate(models()):
        path: Path = tmp_path_factory.mktemp("models") / f"{i}.gguf"
        path.write_bytes(content)
        model = gguflow.open(path)
        found.append((Tokenizer(model.metadata, model.path), model))
    yield found
    for _, model in found:
        model.close()


LONG = {"spaces": " ", "letters": "a", "two letters": "ab", "words": "a b", "no token": "z"}


@pytest.mark.parametrize("unit", LONG.values(), ids=LONG)
@pytest.mark.parametrize("kind", [0, 1], ids=["sentencepiece", "byte pairs"])
def test_a_long_word_takes_bounded_time_and_memory(
    unit: str, kind: int, loaded: list[tuple[Tokenizer, Any]]
) -> None:
    text = unit * (100_000 // len(unit))
    tracemalloc.start()
    start = time.process_time()
    loaded[kind][0].encode(text)
    assert time.process_time() - start < 10  # under tracemalloc, which is slow
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [0, 1], ids=["sentencepiece", "byte pairs"])
@pytest.mark.parametrize("most", [0, 1, 2, 7, 100, 10_000])
def test_the_first_tokens_are_the_first(most: int, kind: int, loaded: list[tuple[Tokenizer, Any]]) -> None:
    tokenizer = loaded[kind][0]
    text = "a b<|im_end|>ab  12 x</s>" * 20
    for special in (False, True):
        every = tokenizer.encode(text, parse_special=special)
        assert tokenizer.encode(text, parse_special=special, most=most) == every[:most]


@pytest.mark.parametrize("kind", [0, 1], ids=["sentencepiece", "byte pairs"])
def test_no_word_behind_the_last_token_is_merged(
    kind: int, loaded: list[tuple[Tokenizer, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = loaded[kind][0]
    asked: list[str] = []
    ids_of = tokenizer.model._ids_of

    def noted(word: str) -> Any:
        asked.append(word)
        return ids_of(word)

    monkeypatch.setattr(tokenizer.model, "_ids_of", noted)
    text = "z! a" * 100_000
    assert cut(tokenizer, text, 8, max_chunks=3) == cut(tokenizer, text[:2000], 8)[:3]
    asked.clear()
    cut(tokenizer, text, 8, max_chunks=3)
    assert len(asked) <= 24


def test_a_prompt_over_the_context(loaded: list[tuple[Tokenizer, Any]]) -> None:
    tokenizer, model = loaded[0]
    with pytest.raises(UsageError, match="more than the 64 tokens of the model's context"):
        Generation(Transformer(model), tokenizer, "z" * 100_000, 1)
