"""Merging of neighbours until none can be merged, for SentencePiece's BPE and byte-level BPE."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Sequence


def merge(symbols: Sequence[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Repeatedly join the neighbours of lowest rank, leftmost first among equals, in O(n log n).

    A text may be one word of a million symbols, so there is one number for each candidate: its place, in a
    heap of the places of the same rank. Whether it is still one is found by ranking the neighbours again.

    symbols: the initial n symbols of the text.
    rank: of two neighbours; None or NaN if they are never joined.
    """
    same: dict[str, str] = {}
    texts = [same.setdefault(symbol, symbol) for symbol in symbols]  # one object for each different one
    n = len(texts)
    left_of, right_of = array("q", range(-1, n - 1)), array("q", range(1, n + 1))
    places: dict[float, list[int]] = {}
    for left in range(n - 1):
        priority = rank(texts[left], texts[left + 1])
        if priority is not None and priority == priority:
            places.setdefault(priority, []).append(left)
    ranks = list(places)
    heapq.heapify(ranks)

    def propose(left: int) -> None:
        priority = rank(texts[left], texts[right_of[left]])
        if priority is None or priority != priority:
            return
        if priority in places:
            heapq.heappush(places[priority], left)
        else:
            places[priority] = [left]
            heapq.heappush(ranks, priority)

    while ranks:
        lowest = ranks[0]
        if not places[lowest]:
            del places[heapq.heappop(ranks)]
            continue
        left = heapq.heappop(places[lowest])
        right = right_of[left]
        if not texts[left] or right == n or rank(texts[left], texts[right]) != lowest:
            continue  # one of the two has already been merged with another
        joined = texts[left] + texts[right]
        texts[left], texts[right] = same.setdefault(joined, joined), ""
        after = right_of[left] = right_of[right]
        if after < n:
            left_of[after] = left
            propose(left)
        if left_of[left] >= 0:
            propose(left_of[left])
    return [text for text in texts if text]
