"""How work is cut: pieces and tiles cover everything once, on block boundaries, for sizes that no test could allocate."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguflow.parallel import pieces
from gguflow.weights import tiles

BLOCK = 256


@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 30))
def test_pieces_cover_all_rows(n_rows: int, row_blocks: int, target_blocks: int) -> None:
    row, target = row_blocks * BLOCK, target_blocks * BLOCK
    cut = list(pieces(n_rows * row, row, BLOCK, target))
    assert [first for first, _ in cut] == [0, *(last for _, last in cut)][: len(cut)]
    assert (cut[-1][1] if cut else 0) == n_rows * row
    for first, last in cut:
        assert first % BLOCK == 0
        assert (first % row == 0 and last % row == 0) or first // row == (last - 1) // row, "whole rows, or a part of one"
        assert last - first <= max(target, BLOCK)


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.integers(1, 40), st.integers(1, 30))
def test_tiles_cover_a_leaf(start: int, length: int, row_blocks: int, target_blocks: int) -> None:
    row, target = row_blocks * BLOCK, target_blocks * BLOCK
    first, last = start * BLOCK, (start + length % 500 + 1) * BLOCK
    cut = list(tiles(first, last, row, target))
    assert cut[0][0] == first and cut[-1][1] == last
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))
    for a, b in cut:
        assert a % BLOCK == 0 and 0 < b - a <= target
        assert (a % row == 0 and b % row == 0) or a // row == (b - 1) // row


@pytest.mark.parametrize("size", [2**31 - 4096, 2**31, 2**33, 2**40 + 4096])
def test_sizes_beyond_32_bits(size: int) -> None:
    """Offsets of weights and bytes are Python's integers, exact at any size."""
    first, last = next(itertools.islice(pieces(size, 4096, 32, 1 << 16), (size - 1) // (1 << 16), None))
    assert (first, last) == ((size - 1) // (1 << 16) * (1 << 16), size)
    *_, (start, stop) = tiles(size - 8192, size, 4096, 1 << 16)
    assert (start, stop) == (size - 8192, size)
    assert stop // 32 * 34 == size * 34 // 32
