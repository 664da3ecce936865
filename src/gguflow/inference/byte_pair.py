"""Byte-level BPE, llama.cpp's tokenizer "gpt2": words are cut out of the text, their bytes written as
letters, and merged by rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gguflow.inference.merging import merge
from gguflow.inference.pre_tokenizers import Splitter


def byte_letters() -> dict[int, str]:
    """GPT-2's letter for each byte: itself where Latin-1 prints it, else the next free one from U+0100 on (so
    a space is Ġ).
    """
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_LETTERS = byte_letters()
_BYTES = {letter: bytes([byte]) for byte, letter in _LETTERS.items()}


def to_bytes(text: str) -> bytes:
    """What a token's text stands for; a letter that stands for no byte (in tokens that were added as they
    are) is itself.
    """
    return b"".join(_BYTES.get(letter) or letter.encode("utf-8", "surrogateescape") for letter in text)


class BytePair:
    """Text to ids. ids: of every token's text. merges: "left right", the first before the others. splitter:
    cuts a text into words.
    """

    def __init__(self, ids: Mapping[str, int], merges: Iterable[str], splitter: Splitter) -> None:
        self._ids = ids
        self._ranks: dict[str, int] = {}
        for rank, pair in enumerate(merges):
            self._ranks.setdefault(pair, rank)
        self._splitter = splitter
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of a text in which no special token is sought. A byte that is no token is left out, as
        llama.cpp does it.
        """
        return [token for word in self._splitter.words(text) for token in self._ids_of(word)]

    def _ids_of(self, word: str) -> list[int]:
        known = self._known.get(word)
        if known is None:
            letters = "".join(map(_LETTERS.__getitem__, word.encode("utf-8")))
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
