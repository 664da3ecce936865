"""What a writer of rows leaves that is stopped, by a power cut, a signal or a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflow
from gguflow import platform
from gguflow.errors import (
    StorageError,
)
from gguflow.rows import RowStore
from gguflow.validation import examine
from testing.row_stores import store_of, vectors

ROOT = Path(__file__).resolve().parents[2]


class Medium:
    """Records what reaches the system, in order, and makes the files that a power cut could leave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.base = path.read_bytes()
        self.log: list[tuple[str, int, bytes]] = []
        write, sync = platform.pwrite_all, platform.sync_data

        def recorded_write(fd: int, buffer: Any, offset: int) -> None:
            self.log.append(
                ("write", offset, bytes(memoryview(buffer).cast("B")) if memoryview(buffer).nbytes else b"")
            )
            write(fd, buffer, offset)

        def recorded_sync(fd: int) -> None:
            sync(fd)
            self.log.append(("sync", 0, b""))

        monkeypatch.setattr(platform, "pwrite_all", recorded_write)
        monkeypatch.setattr(platform, "sync_data", recorded_sync)

    def mark(self, n_rows: int) -> None:
        """That many rows are flushed now."""
        self.log.append(("flushed", n_rows, b""))

    def after_power_cuts(self) -> Iterator[tuple[bytes, int]]:
        """Files, each with the rows that were flushed before. All that was synced is there, and of later
        writes none, all, each, all but each.
        """
        for k in range(len(self.log) + 1):
            before = self.log[:k]
            synced = max((i for i, (kind, _, _) in enumerate(before) if kind == "sync"), default=-1) + 1
            later = [entry for entry in before[synced:] if entry[0] == "write"]
            flushed = max((n for kind, n, _ in before if kind == "flushed"), default=0)
            for chosen in (
                [],
                later,
                *([entry] for entry in later),
                *([e for e in later if e is not left_out] for left_out in later),
            ):
                yield self._file([*before[:synced], *chosen]), flushed

    def _file(self, entries: list[tuple[str, int, bytes]]) -> bytes:
        content = bytearray(self.base)
        for kind, offset, data in entries:
            if kind == "write":
                content.extend(bytes(max(offset + len(data) - len(content), 0)))
                content[offset : offset + len(data)] = data
        return bytes(content)


@pytest.mark.parametrize("format", ["q8_0", "int8_row"])
def test_whatever_a_power_cut_leaves_is_a_prefix_with_all_that_was_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """R-111."""
    path, left, x = (
        tmp_path / "x.gguf",
        tmp_path / "left.gguf",
        vectors(12, 36 if format == "int8_row" else 32),
    )
    RowStore(path, format, x.shape[1]).close()
    medium = Medium(monkeypatch, path)
    with RowStore(path, mode="a") as store:
        for first, last in ((0, 3), (3, 4), (4, 9), (9, 12)):
            store.append(x[first:last])
            if first != 3:
                medium.mark(store.flush())
        packed = store.raw().copy()
    seen = set()
    for content, flushed in medium.after_power_cuts():
        left.write_bytes(content)
        reader = RowStore.open(left)
        assert len(reader) >= flushed
        np.testing.assert_array_equal(reader.raw(), packed[: len(reader)])
        seen.add((len(reader), flushed))
        reader.close()
    assert {n for n, _ in seen} == {0, 3, 9, 12} and (9, 3) in seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the tool forks its writers")
def test_writers_that_are_killed() -> None:
    """SIGKILL thirty times at random moments."""
    command = [sys.executable, str(ROOT / "tools" / "faults"), "rows", "-n", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert '"kills of row stores": 30' in done.stdout


def refuse_once(monkeypatch: pytest.MonkeyPatch, name: str, k: int) -> None:
    """The k-th call fails as on a full disk, having done half of its work."""
    function, calls = getattr(platform, name), iter(range(1, 1000))

    def refusing(fd: int, *arguments: Any) -> None:
        if next(calls) == k:
            if arguments:
                function(
                    fd,
                    memoryview(arguments[0]).cast("B")[: memoryview(arguments[0]).nbytes // 2],
                    arguments[1],
                )
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        function(fd, *arguments)

    monkeypatch.setattr(platform, name, refusing)


def test_a_full_disk_while_appending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is appended, and the same rows go in once there is room."""
    path, x = tmp_path / "x.gguf", vectors(20, 64)
    with RowStore(path, "q8_0", 64) as store:
        store.append(x[:10])
        with monkeypatch.context() as context:
            refuse_once(context, "pwrite_all", 1)
            with pytest.raises(StorageError, match="no space left"):
                store.append(vectors(100, 64, 1))
        assert store.append(x[10:]) == range(10, 20)
    with RowStore.open(path) as reader:
        np.testing.assert_array_equal(reader.raw(), gguflow.quantize(x, "q8_0"))
    assert examine(path, "strict") == ("valid", [])


@pytest.mark.parametrize(
    ("call", "k", "there"), [("sync_data", 1, 10), ("pwrite_all", 2, 15), ("sync_data", 2, 15)]
)
def test_a_flush_that_fails_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, k: int, there: int
) -> None:
    """R-118: what the system could not write it may have forgotten, and would not say so again."""
    path = store_of(tmp_path / "x.gguf", width=64)
    store = RowStore(path, mode="a")
    store.append(vectors(5, 64))
    with monkeypatch.context() as context:
        refuse_once(context, call, k)
        with pytest.raises(StorageError, match="no space left"):
            store.flush()
    for work in (store.flush, lambda: store.append(vectors(1, 64))):
        with pytest.raises(StorageError, match="takes no more rows"):
            work()
    store.close()
    assert examine(path)[0] == "valid"
    with RowStore(path, mode="a") as store:
        assert len(store) == there
        np.testing.assert_array_equal(store.raw(0, 10), gguflow.quantize(vectors(10, 64), "q8_0"))


def test_a_close_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was flushed is on the medium, so nobody needs to hear of it."""
    store = RowStore(tmp_path / "x.gguf", "q8_0", 64)
    store.append(vectors(5, 64))
    close = os.close

    def refuse(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as context:
        context.setattr(os, "close", refuse)
        store.close()
    assert len(RowStore.open(tmp_path / "x.gguf")) == 5
