"""Work on threads where the system has no more of them."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from gguflow import quantize, threads
from gguflow.errors import NonFiniteError


@pytest.fixture(params=[0, 1])
def few_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The system starts so many more threads."""
    left = [request.param]
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if left[0] == 0:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    threads._pool.cache_clear()
    return int(request.param)


def test_the_threads_that_there_are_do_the_work(few_threads: int) -> None:
    done: list[int] = []
    pieces = [(i, i + 1) for i in range(50)]
    threads.run(lambda first, _: done.append(first), pieces, 8)
    assert sorted(done) == list(range(50))
    assert list(threads.ordered(lambda x: x * x, range(50), 8)) == [x * x for x in range(50)]


def test_an_error_is_the_first_in_order_all_the_same(few_threads: int) -> None:
    x = np.ones((64, 1 << 14), np.float32)
    x[50, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"\[50, 3\]"):
        quantize(x, "q8_0", threads=4)

    def fail(i: int) -> int:
        raise ValueError(i)

    with pytest.raises(ValueError, match="0"):
        list(threads.ordered(fail, range(9), 4))


def test_a_helper_that_begins_too_late_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was queued when its thread could not be started, and the work has been done by others."""
    late: list[Any] = []

    class Pool:
        def submit(self, action: Any) -> None:
            late.append(action)
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", lambda _: Pool())
    done: list[int] = []
    threads.run(lambda first, _: done.append(first), [(0, 1), (1, 2)], 2)
    late[0]()
    assert done == [0, 1]


def test_nobody_is_at_work_after_an_error() -> None:
    running = [0]

    def work(first: int, last: int) -> None:
        running[0] += 1
        time.sleep(0.02)
        running[0] -= 1
        if first == 0:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        threads.run(work, [(i, i + 1) for i in range(40)], 4)
    assert running == [0]
