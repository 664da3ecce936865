"""Merging of neighbours until none can be merged, for SentencePiece's BPE and byte-level BPE."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence


def merge(symbols: Sequence[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Repeatedly join the neighbours of lowest rank, leftmost first among equals, in O(n log n).

    symbols: the initial n symbols of the text.
    rank: of two neighbours; None if they are never joined.
    """
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
            continue  # one of the two has already been merged with another
        texts[left], texts[right] = joined, ""
        right_of[left] = right_of[right]
        if right_of[right] >= 0:
            left_of[right_of[right]] = left
        propose(left_of[left], left)
        propose(left, right_of[left])
    return [text for text in texts if text]
