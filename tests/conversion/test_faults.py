"""The system refuses once, at every place where it can: what was there stays, no part of anything gets the
name, and the same command goes on.

`tools/faults` does the same from outside: kill -9 at random moments, and a file system that is full.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflow import conversion, platform
from gguflow.container.metadata import string
from gguflow.editing import edit
from gguflow.errors import StorageError
from testing.checkpoints import write_safetensors

CALLS = {
    "reserving space": (platform, "preallocate"),
    "writing": (platform, "pwrite_all"),
    "flushing": (platform, "sync_file"),
    "renaming": (platform, "replace_file"),
    "flushing the directory": (platform, "sync_directory"),
    "writing the journal": (os, "write"),
}
"""What the system may refuse: the calls that change files, by module and name."""

LAST = "flushing the directory"
"""Where this fails the file has its name already; only whether a power cut would undo that is not known."""


class Fault:
    """Makes the k-th call of a function fail as a full disk would; a write then stops half-way. persistent:
    all later calls too.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, call: str, k: int, *, persistent: bool = False
    ) -> None:
        self.call, self.k, self.persistent = call, k, persistent
        self.n_calls = 0
        self._lock = threading.Lock()
        module, name = CALLS[call]
        self._function: Callable[..., Any] = getattr(module, name)
        monkeypatch.setattr(module, name, self._run)

    def _run(self, *arguments: Any) -> Any:
        with self._lock:
            self.n_calls += 1
            n = self.n_calls
        if n == self.k or (self.persistent and n > self.k):
            if self.call == "writing":
                fd, buffer, offset = arguments
                self._function(fd, memoryview(buffer).cast("B")[: memoryview(buffer).nbytes // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._function(*arguments)


def faults(work: Callable[[], object], call: str, *, persistent: bool = False) -> Iterator[int]:
    """Run `work` with a fault at the first, second, third call..., until it gets through. Yields the number
    of the call after each failure.
    """
    k = 1
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            fault = Fault(monkeypatch, call, k, persistent=persistent)
            try:
                work()
                refused = None
            except StorageError as error:
                refused = error
        if refused is None:
            assert fault.n_calls < k, "a fault passed unnoticed"
            return
        assert refused.errno == errno.ENOSPC and "no space left" in str(refused)
        yield k
        k += 1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tensors, six leaves."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal((n, 256)).astype(np.float32)
        for name, n in (("a.weight", 4097), ("b.weight", 8200), ("c.weight", 3))
    }
    return write_safetensors(tmp_path_factory.mktemp("source") / "x.safetensors", tensors)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a conversion gives that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out.gguf"
    conversion.convert(source, out, type="q8_0", architecture="any")
    return out.read_bytes()


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("old", [None, b"precious"], ids=["new", "replacing"])
@pytest.mark.parametrize("call", CALLS)
def test_conversion(
    tmp_path: Path, source: Path, whole: bytes, call: str, old: bytes | None, persistent: bool
) -> None:
    """After each failure the same command, undisturbed, gives the same bytes as one that never failed."""
    out = tmp_path / "out.gguf"

    def work() -> None:
        conversion.convert(source, out, type="q8_0", architecture="any", threads=2, overwrite=old is not None)

    def reset() -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        if old is not None:
            out.write_bytes(old)

    n_faults = 0
    reset()
    for _ in faults(work, call, persistent=persistent):
        n_faults += 1
        there = out.read_bytes() if out.exists() else None
        assert there == (whole if call == LAST else old)
        if call == LAST:
            out.unlink()
        if old is not None:
            out.write_bytes(old)
        work()
        assert out.read_bytes() == whole
        assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
        reset()
    assert n_faults >= {"writing": 6, "writing the journal": 2}.get(call, 1)  # leaves are noted together


def test_a_conversion_that_fails_again_and_again(tmp_path: Path, source: Path, whole: bytes) -> None:
    """Each attempt gets one write further than the one before it, and nothing is lost on the way."""
    out = tmp_path / "out.gguf"
    resumed = [0]

    def work() -> None:
        report = conversion.convert(source, out, type="q8_0", architecture="any", threads=1)
        resumed.append(report.resumed_nbytes)

    n_faults = sum(1 for _ in faults(work, "writing"))
    assert n_faults >= 2 and resumed[-1] > 0
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


@pytest.mark.parametrize("call", [call for call in CALLS if call != "writing the journal"])
def test_editing(tmp_path: Path, whole: bytes, call: str) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(whole)
    edit(model, [("general.name", string("edited"))], output=tmp_path / "edited.gguf")
    edited = (tmp_path / "edited.gguf").read_bytes()
    (tmp_path / "edited.gguf").unlink()
    n_faults = 0
    for _ in faults(lambda: edit(model, [("general.name", string("edited"))], threads=2), call):
        n_faults += 1
        assert model.read_bytes() == (edited if call == LAST else whole)
        assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
        model.write_bytes(whole)
    assert n_faults >= (7 if call == "writing" else 1)
    assert model.read_bytes() == edited
