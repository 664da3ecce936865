"""SentencePiece's BPE, llama.cpp's tokenizer "llama": the pieces with the best scores are made first, what is
no piece is spelt in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from gguflow.inference.merging import merge

SPACE = "▁"
"""How a piece writes a space: U+2581."""


class SentencePiece:
    """Text to ids. ids: of every token's text. scores: of every token. unknown: the token for a byte that has
    none.
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

    def encode(self, text: str) -> list[int]:
        """The ids of a text in which no special token is sought; it gets no leading space here."""
        return [token for piece in self._pieces(text.replace(" ", SPACE)) for token in self._ids_of(piece)]

    def _pieces(self, text: str) -> list[str]:
        """The text cut where no token has both neighbours inside: nothing can be merged across, so the pieces
        are independent of each other.
        """
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
