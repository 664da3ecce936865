"""How work is cut: pieces and tiles cover everything once, on block boundaries, for sizes that no test could
allocate.
"""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguflow.models.reading import tile_ranges as tiles
from gguflow.threads import pieces, run

BLOCK = 256


@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 30))
def test_pieces_cover_all_rows(n_rows: int, row_blocks: int, target_blocks: int) -> None:
    row, target = row_blocks * BLOCK, target_blocks * BLOCK
    cut = list(pieces(n_rows * row, row, BLOCK, target))
    assert [first for first, _ in cut] == [0, *(last for _, last in cut)][: len(cut)]
    assert (cut[-1][1] if cut else 0) == n_rows * row
    for first, last in cut:
        assert first % BLOCK == 0
        assert (first % row == 0 and last % row == 0) or first // row == (last - 1) // row, (
            "whole rows, or a part of one"
        )
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


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 100])
def test_every_piece_is_done_once(n: int, threads: int) -> None:
    done: list[tuple[int, int]] = []
    run(lambda first, last: done.append((first, last)), [(i, i + 1) for i in range(n)], threads)
    assert sorted(done) == [(i, i + 1) for i in range(n)]


def test_threads_that_wait_for_others_inside_of_others() -> None:
    """More calls at once than a pool has threads: each caller does its own pieces."""
    done: list[int] = []
    ten = [(i, i + 1) for i in range(10)]
    run(lambda i, _: run(lambda j, _: done.append(10 * i + j), ten, 2), ten, 2)
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_error_in_order_is_raised_and_nothing_goes_on_after_it(threads: int) -> None:
    begun: list[int] = []

    def work(i: int, _: int) -> None:
        begun.append(i)
        if i == 3:
            time.sleep(0.05)  # so that piece 4 fails first, where there is a thread for it
        if i >= 3:
            raise ValueError(i)

    with pytest.raises(ValueError, match=r"^3$"):
        run(work, [(i, i + 1) for i in range(1000)], threads)
    n_begun = len(begun)
    time.sleep(0.02)
    assert len(begun) == n_begun <= 3 + threads


def test_an_interruption_comes_before_errors() -> None:
    """Ctrl-C, which only the main thread gets."""
    begun = threading.Event()

    def work(i: int, _: int) -> None:
        if threading.current_thread() is threading.main_thread():
            begun.wait(5)
            raise KeyboardInterrupt
        begun.set()
        raise ValueError(i)

    with pytest.raises(KeyboardInterrupt):
        run(work, [(i, i + 1) for i in range(8)], 2)
