"""The loop over jobs: what is finished when, what an error ends; and that cuts do not show in the bytes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gguflow
from gguflow import conversion
from gguflow.container.integrity import LEAF_WEIGHTS
from gguflow.conversion import engine, jobs
from gguflow.conversion.engine import DRAIN, Event, Jobs
from testing.checkpoints import bf16, write_safetensors


class Recorded:
    """A job that notes when it is performed and finished. Slow ones are performed long after later ones."""

    def __init__(self, number: int, log: list[str], held: int = 0, error: str = "") -> None:
        self.number = number
        self.log = log
        self.held_nbytes = held
        self.error = error

    def prefetch(self) -> None:
        self.log.append(f"prefetch {self.number}")

    def perform(self) -> None:
        time.sleep(0.02 if self.number % 3 == 0 else 0.0)
        self.log.append(f"perform {self.number}")
        if self.error == "perform":
            raise ValueError(f"job {self.number}")

    def finish(self) -> list[Event]:
        self.log.append(f"finish {self.number}")
        if self.error == "finish":
            raise ValueError(f"job {self.number}")
        return []


def of(log: list[str], kind: str) -> list[int]:
    return [int(line.split()[1]) for line in log if line.startswith(kind)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_jobs_are_finished_in_their_order(threads: int) -> None:
    log: list[str] = []

    def made() -> Jobs:
        yield from (Recorded(i, log) for i in range(40))

    engine.run(made(), threads, 0, None)
    assert of(log, "finish") == list(range(40))
    assert sorted(of(log, "perform")) == list(range(40))
    assert sorted(of(log, "prefetch")) == list(range(40))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_what_stands_behind_a_drain_is_made_when_all_before_it_is_finished(threads: int) -> None:
    log: list[str] = []
    seen: list[list[int]] = []

    def made() -> Jobs:
        for part in range(4):
            yield from (Recorded(i, log) for i in range(10 * part, 10 * part + 10))
            yield DRAIN
            seen.append(of(log, "finish"))

    engine.run(made(), threads, 0, None)
    assert seen == [list(range(10 * part + 10)) for part in range(4)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("where", ["perform", "finish"])
def test_the_first_error_in_the_order_of_the_jobs_ends_the_rest(threads: int, where: str) -> None:
    log: list[str] = []
    closed = []

    def made() -> Jobs:
        try:
            for i in range(100):
                yield Recorded(i, log, error=where if i in (6, 7) else "")
        finally:
            closed.append(True)

    with pytest.raises(ValueError, match="job 6"):
        engine.run(made(), threads, 0, None)
    assert of(log, "finish") == list(range(7 if where == "finish" else 6))
    assert len(of(log, "perform")) < 20
    assert closed == [True]


def test_an_error_while_jobs_are_made_is_raised() -> None:
    log: list[str] = []

    def made() -> Jobs:
        yield Recorded(0, log)
        raise ValueError("no more")

    for threads in (1, 2):
        with pytest.raises(ValueError, match="no more"):
            engine.run(made(), threads, 0, None)


def test_jobs_hold_no_more_than_they_may() -> None:
    """One that is larger goes alone."""
    running = 0
    most = 0
    lock = threading.Lock()

    class Held(Recorded):
        def perform(self) -> None:
            nonlocal running, most
            with lock:
                running += self.held_nbytes
                most = max(most, running if self.held_nbytes <= 100 else 0)
                assert self.held_nbytes <= 100 or running == self.held_nbytes
            super().perform()

        def finish(self) -> list[Event]:
            nonlocal running
            with lock:
                running -= self.held_nbytes
            return super().finish()

    log: list[str] = []

    def made() -> Jobs:
        yield from (Held(i, log, held=500 if i % 10 == 9 else 30 + i) for i in range(40))

    engine.run(made(), 4, 100, None)
    assert of(log, "finish") == list(range(40))
    assert 60 <= most <= 100


@pytest.mark.parametrize("n_leaves", [1, 4, 9])
def test_several_leaves_of_a_job_give_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_leaves: int
) -> None:
    """And an interrupted run goes on from what it had, wherever its jobs were cut."""
    random = np.random.default_rng(3)
    rows = n_leaves * LEAF_WEIGHTS // 4096 - 3
    tensors = {"a.weight": bf16(random.standard_normal((rows, 4096), np.float32))}
    source = write_safetensors(tmp_path / "x.safetensors", tensors)
    one, many = tmp_path / "one.gguf", tmp_path / "many.gguf"
    conversion.convert(source, one, type="q4_0", architecture="any", threads=1)
    monkeypatch.setattr(jobs, "MANY_THREADS", 1)
    monkeypatch.setattr(jobs, "JOBS_EACH", 1)

    def stop(planned: object, n_weights: int, nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.convert(source, many, type="q4_0", architecture="any", threads=2, progress=stop)
    assert not many.exists()
    monkeypatch.setattr(jobs, "LEAVES_OF_A_JOB", 3)
    conversion.convert(source, many, type="q4_0", architecture="any", threads=2)
    assert many.read_bytes() == one.read_bytes()
    with gguflow.open(many, verify=True) as model:
        assert model["a.weight"].shape == (rows, 4096)
