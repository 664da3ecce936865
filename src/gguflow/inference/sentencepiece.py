"""SentencePiece's BPE, llama.cpp's tokenizer "llama": merges by score, with a fallback to bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from gguflow.models.tokenizers.encoding.merging import merge

SPACE = "▁"
"""The character for a space in pieces: U+2581."""


class SentencePiece:
    """SentencePiece's BPE from text to ids.

    ids: ids of tokens by text.
    scores: of every token.
    unknown: the token for bytes without a token.
    """

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], unknown: int | None) -> None:
        self._ids = ids
        self._scores = scores
        self._bytes = [
            ids.get(f"<0x{byte:02X}>", ids.get(chr(byte), unknown) if byte < 128 else unknown)
            for byte in range(256)
        ]
        self._inside = {pair for text in ids for pair in pairwise(text)}
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> Iterator[list[int]]:
        """The ids of a text, piece by piece, without looking for special tokens or adding a leading space."""
        return map(self._ids_of, self._pieces(text.replace(" ", SPACE)))

    def _pieces(self, text: str) -> list[str]:
        """Split the text between characters that no token contains as neighbours: no merge crosses these."""
        cuts = [0, *(i for i, pair in enumerate(pairwise(text), 1) if pair not in self._inside), len(text)]
        return [text[first:last] for first, last in pairwise(cuts)]

    def _ids_of(self, piece: str) -> list[int]:
        known = self._known.get(piece)
        if known is None:
            known = self._known[piece] = [
                token for symbol in merge(piece, self._rank) for token in self._spelt(symbol)
            ]
        return known

    def _rank(self, left: str, right: str) -> float | None:
        token = self._ids.get(left + right)
        return None if token is None else -self._scores[token]

    def _spelt(self, symbol: str) -> list[int]:
        token = self._ids.get(symbol)
        if token is not None:
            return [token]
        return [spelt for byte in symbol.encode("utf-8") if (spelt := self._bytes[byte]) is not None]
