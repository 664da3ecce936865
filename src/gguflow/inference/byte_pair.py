"""Byte-level BPE, llama.cpp's tokenizer "gpt2": split into words, write bytes as letters, merge by rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gguflow.inference.pre_tokenizers import Splitter
from gguflow.models.tokenizers.encoding.byte_letters import LETTERS
from gguflow.models.tokenizers.encoding.merging import merge

_BYTES = {letter: bytes([byte]) for byte, letter in LETTERS.items()}


def to_bytes(text: str) -> bytes:
    """The bytes of a token's text; letters that mean no byte (in added tokens) are encoded as UTF-8."""
    return b"".join(_BYTES.get(letter) or letter.encode("utf-8", "surrogateescape") for letter in text)


class BytePair:
    """Byte-level BPE from text to ids.

    ids: ids of tokens by text.
    merges: "left right", in order of priority.
    splitter: splits a text into words.
    """

    def __init__(self, ids: Mapping[str, int], merges: Iterable[str], splitter: Splitter) -> None:
        self._ids = ids
        self._ranks: dict[str, int] = {}
        for rank, pair in enumerate(merges):
            self._ranks.setdefault(pair, rank)
        self._splitter = splitter
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> Iterator[list[int]]:
        """The ids of a text, word by word, without looking for special tokens; bytes without a token are left
        out.
        """
        return map(self._ids_of, self._splitter.words(text))

    def _ids_of(self, word: str) -> list[int]:
        known = self._known.get(word)
        if known is None:
            letters = "".join(map(LETTERS.__getitem__, word.encode("utf-8")))
            is_whole = self._splitter.ignores_merges and letters in self._ids
            symbols = [letters] if is_whole else merge(letters, self._rank)
            known = self._known[word] = [token for symbol in symbols for token in self._spelt(symbol)]
        return known

    def _rank(self, left: str, right: str) -> float | None:
        return self._ranks.get(f"{left} {right}")

    def _spelt(self, symbol: str) -> list[int]:
        if symbol in self._ids:
            return [self._ids[symbol]]
        return [self._ids[letter] for letter in symbol if letter in self._ids]
