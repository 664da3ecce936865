"""Strings of a GGUF file: text that keeps invalid bytes, and arrays of strings, found without a loop.

An array of strings is a chain: each length says where the next one is. Followed one by one, a vocabulary with
its merges (430,000 strings) takes a quarter of a second. But almost all strings of a model are shorter than
256 bytes, so almost all lengths are a byte followed by seven zeros, and such places are found for a whole
window of the file at once. They are only candidates: the chain is still followed, a run of candidates that
point at each other in one step, everything else (a long string, a NUL inside a token) one string at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<Q")

_WINDOW = 1 << 20
"""Bytes scanned together, which limits the memory of a scan regardless of the file's content."""
_USUAL = 32
"""A generous size of a string with its length, so that a short array has a small window."""
_FEW = 32
"""Number of strings that are followed one by one after a run ends; twice as many each time that none begins
there, up to _MANY.
"""
_MANY = 1 << 14

Offsets = NDArray[np.int64]


class StringArray(Sequence[str]):
    """The strings of a metadata array, decoded only when accessed; invalid UTF-8 is kept as surrogates."""

    def __init__(self, buffer: memoryview, starts: Offsets) -> None:
        """starts: offset of each string's length; the caller has checked that all are in the buffer."""
        self._buffer = buffer
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return decode_text(self.raw(i))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def raw(self, i: int) -> bytes:
        """The bytes of string i."""
        start = int(self._starts[i])
        (length,) = LENGTH.unpack_from(self._buffer, start)
        return bytes(self._buffer[start + 8 : start + 8 + length])

    def position(self, i: int) -> int:
        """The offset of string i's length in the buffer."""
        return int(self._starts[i])


class ChainBrokenError(Exception):
    """String `index`, whose length is (or should be) at `position`, extends past the end of the buffer."""

    def __init__(self, index: int, position: int) -> None:
        super().__init__(index, position)
        self.index = index
        self.position = position


def find_strings(buffer: memoryview, position: int, count: int) -> tuple[Offsets, int]:
    """The offsets of the lengths of `count` consecutive strings from `position` on, and the end of the last.

    The caller has checked that 8 * count bytes remain. Raises ChainBrokenError.
    """
    starts = np.empty(count, np.int64)
    found, alone = 0, _FEW
    window = _Window.of(buffer, position, 0)
    while found < count:
        # past what ended the last run, so that every break is cheap, and many breaks cost no more than a loop
        followed = min(alone, count - found)
        starts[found : found + followed], position = _follow(buffer, position, followed, found)
        found += followed
        if position >= window.end and count - found > _FEW:
            window = _Window.of(buffer, position, count - found)
        run = window.run_from(position)[: count - found]
        starts[found : found + len(run)] = run
        found += len(run)
        if len(run):
            (_, position) = _follow(buffer, int(run[-1]), 1, found - 1)
        alone = _FEW if len(run) > _FEW else min(2 * alone, _MANY)
    return starts, position


def _follow(buffer: memoryview, position: int, count: int, index: int) -> tuple[list[int], int]:
    """The offsets of `count` strings from `position` on, one by one, and the end of the last, checked to be
    in the buffer. index: of the first.
    """
    starts: list[int] = []
    read, end = LENGTH.unpack_from, len(buffer) - 8
    while len(starts) < count and position <= end:
        starts.append(position)
        position += 8 + read(buffer, position)[0]
    if position > len(buffer):  # the last one that was read ends there
        raise ChainBrokenError(index + len(starts) - 1, starts[-1])
    if len(starts) < count:
        raise ChainBrokenError(index + len(starts), position)
    return starts, position


@dataclass(frozen=True)
class _Window:
    """The offsets in a part of the buffer that may be lengths of strings shorter than 256 bytes.

    candidates: offsets in the buffer, ascending.
    breaks: indices of the candidates whose string does not end at the next candidate, ascending.
    end: of the part, in the buffer.
    """

    candidates: Offsets
    breaks: Offsets
    end: int

    @classmethod
    def of(cls, buffer: memoryview, position: int, count: int) -> _Window:
        """The part from `position` on that is large enough for `count` strings of usual length."""
        size = min(_WINDOW, _USUAL * count, len(buffer) - position)
        if size < 8:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), position)
        content = np.frombuffer(buffer, np.uint8, size, position)
        is_zero = content == 0
        is_short = is_zero[1 : size - 6].copy()  # is_short[p]: bytes p + 1 to p + 7 are zero
        for i in range(2, 8):
            is_short &= is_zero[i : size - 7 + i]
        places = np.flatnonzero(is_short)
        ends = places + 8 + content[places]
        return cls(places + position, np.flatnonzero(ends[:-1] != places[1:]), position + size)

    def run_from(self, position: int) -> Offsets:
        """The consecutive candidates from `position` on, each of whose strings ends where the next begins."""
        first = int(np.searchsorted(self.candidates, position))
        if first == len(self.candidates) or self.candidates[first] != position:
            return self.candidates[:0]
        broken = int(np.searchsorted(self.breaks, first))
        last = int(self.breaks[broken]) if broken < len(self.breaks) else len(self.candidates) - 1
        return self.candidates[first : last + 1]


def decode_text(raw: memoryview | bytes) -> str:
    """Decode UTF-8, with each invalid byte as a lone surrogate, so that encoding gives the bytes back."""
    return bytes(raw).decode("utf-8", "surrogateescape")


def encode_text(text: str) -> bytes:
    """The bytes of a string from decode_text, or of any other."""
    return text.encode("utf-8", "surrogateescape")


def is_text(text: str) -> bool:
    """Whether a string has no lone surrogates, which decode_text makes of invalid bytes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def quoted(text: str) -> str:
    """Text from a file for a message: in quotes, escaped, and shortened."""
    return repr(text if len(text) <= 120 else text[:120] + "…")
