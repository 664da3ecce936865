"""The platform calls: each on this system, and the other systems' ways through what they lack."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gguflow import platform
from gguflow.errors import ExitStatus, StorageError

needs_devices = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """Of an empty file, `tmp_path / "file"`, open for reading and writing."""
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["pwrite", "without pwrite"])
def each_way_to_write(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without pwrite":
        monkeypatch.delattr(os, "pwrite", raising=False)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the device"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOENT, "no such file or directory"),
        (errno.ENOTDIR, "a part of the path is not a directory"),
        (errno.EISDIR, "it is a directory"),
        (errno.EPIPE, os.strerror(errno.EPIPE)),
    ],
    ids=errno.errorcode.get,
)
def test_storage_errors_say_what_was_done_to_which_file(number: int, words: str) -> None:
    with pytest.raises(StorageError) as caught, platform.storage_errors("write", "out/model.gguf"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"cannot write out/model.gguf: {words}"
    assert caught.value.errno == number
    assert caught.value.exit_status == ExitStatus.IO


def test_storage_errors_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file or directory"), platform.storage_errors("read", "x"):
        (tmp_path / "missing" / "x").read_bytes()
    with pytest.raises(StorageError, match="a directory"), platform.storage_errors("write", "x"):
        tmp_path.write_bytes(b"")


def test_storage_errors_pass_what_is_not_of_the_system() -> None:
    inner = StorageError("cannot read a: permission denied")
    with pytest.raises(StorageError) as caught, platform.storage_errors("write", "b"):
        raise inner
    assert caught.value is inner
    with pytest.raises(ValueError, match=r"^other$"), platform.storage_errors("write", "b"):
        raise ValueError("other")


def test_available_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= platform.available_cpus() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert platform.available_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert platform.available_cpus() == 1


@pytest.mark.usefixtures("each_way_to_write")
class TestPwriteAll:
    def test_places(self, tmp_path: Path, fd: int) -> None:
        platform.pwrite_all(fd, b"tail", 6)
        platform.pwrite_all(fd, np.frombuffer(b"head", np.uint8), 0)
        platform.pwrite_all(fd, memoryview(b""), 100)
        platform.pwrite_all(fd, np.empty(0, np.uint8), 100)
        assert (tmp_path / "file").read_bytes() == b"head\0\0tail"

    def test_arrays_of_several_dimensions(self, tmp_path: Path, fd: int) -> None:
        platform.pwrite_all(fd, np.arange(12, dtype=np.uint8).reshape(3, 4), 0)
        assert (tmp_path / "file").read_bytes() == bytes(range(12))

    def test_large_buffers_are_written_in_parts(
        self, tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(platform, "_MAX_WRITE", 7)
        content = bytes(range(100))
        platform.pwrite_all(fd, content, 1)
        assert (tmp_path / "file").read_bytes() == b"\0" + content

    def test_threads(self, tmp_path: Path, fd: int) -> None:
        parts = [bytes([i]) * 1000 for i in range(64)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: platform.pwrite_all(fd, parts[i], 1000 * i), reversed(range(64))))
        assert (tmp_path / "file").read_bytes() == b"".join(parts)

    def test_read_only(self, tmp_path: Path, fd: int) -> None:
        other = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            with pytest.raises(OSError, match="file"):
                platform.pwrite_all(other, b"x", 0)
        finally:
            os.close(other)

    @needs_devices
    def test_full_disk(self) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            with (
                pytest.raises(StorageError, match="no space left"),
                platform.storage_errors("write", "/dev/full"),
            ):
                platform.pwrite_all(full, b"x", 0)
        finally:
            os.close(full)


def test_a_part_that_was_written_is_continued(
    tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systems may write less than they are asked to."""
    original = platform._write_at
    monkeypatch.setattr(platform, "_write_at", lambda fd, buffer, offset: original(fd, buffer[:3], offset))
    platform.pwrite_all(fd, b"0123456789", 2)
    assert (tmp_path / "file").read_bytes() == b"\0\x000123456789"


def test_a_system_that_writes_nothing_does_not_hang(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_write_at", lambda fd, buffer, offset: 0)
    with pytest.raises(OSError, match="wrote nothing"):
        platform.pwrite_all(fd, b"x", 0)


@pytest.mark.parametrize("nbytes", [0, 1, 100_000])
@pytest.mark.parametrize(
    "trouble",
    [None, errno.EOPNOTSUPP, errno.EINVAL, "missing"],
    ids=["works", "unsupported", "refused", "missing"],
)
def test_preallocate(
    tmp_path: Path, fd: int, monkeypatch: pytest.MonkeyPatch, nbytes: int, trouble: int | str | None
) -> None:
    if trouble == "missing":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    elif isinstance(trouble, int):
        monkeypatch.setattr(os, "posix_fallocate", _raising(trouble), raising=False)
    platform.preallocate(fd, nbytes)
    assert (tmp_path / "file").read_bytes() == bytes(nbytes)


def test_preallocate_shortens_too(tmp_path: Path, fd: int) -> None:
    platform.pwrite_all(fd, b"0123456789", 0)
    platform.preallocate(fd, 4)
    assert (tmp_path / "file").read_bytes() == b"0123"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.get)
def test_preallocate_tells_of_a_full_disk(fd: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _raising(number), raising=False)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        platform.preallocate(fd, 10)
    assert caught.value.errno == number


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve")
def test_preallocate_more_than_there_is(fd: int) -> None:
    with (
        pytest.raises(StorageError, match=r"no space left|does not allow"),
        platform.storage_errors("write", "file"),
    ):
        platform.preallocate(fd, 2**60)


def test_sync(tmp_path: Path, fd: int) -> None:
    """Durability cannot be seen from here; that every way comes back can."""
    platform.sync_file(fd)
    platform.sync_directory(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no directory handles")
def test_sync_directory_on_other_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _raising(errno.EINVAL))
    platform.sync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", _raising(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        platform.sync_directory(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl is not on Windows")
@pytest.mark.parametrize("works", [True, False])
def test_sync_on_macos(fd: int, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    """F_FULLFSYNC, or fsync where the file system has no such thing."""
    import fcntl

    calls: list[object] = []

    def full_sync(fd: int, command: int) -> int:
        calls.append(command)
        if not works:
            raise OSError(errno.ENOTSUP, "")
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full_sync)
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    platform.sync_file(fd)
    assert calls == ([51] if works else [51, "fsync"])


def test_replace_file(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    platform.replace_file(source, target)
    assert target.read_bytes() == b"new"
    assert not source.exists()


def test_is_same_file(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"x")
    other.write_bytes(b"x")
    os.link(file, tmp_path / "hard")
    assert platform.is_same_file(file, tmp_path / "." / "file")
    assert platform.is_same_file(file, tmp_path / "hard")
    assert not platform.is_same_file(file, other)
    assert not platform.is_same_file(file, tmp_path / "missing")
    assert not platform.is_same_file(file, file / "below")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_is_same_file_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert platform.is_same_file(tmp_path / "file", tmp_path / "link")


@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 0), (0, 1), (5, 3 * mmap.PAGESIZE), (mmap.PAGESIZE, 3 * mmap.PAGESIZE + 7), (7, 9)],
)
@pytest.mark.parametrize("has_madvise", [True, False])
def test_released_pages_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, last: int, has_madvise: bool
) -> None:
    if not has_madvise:
        monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    content = np.random.default_rng(1).bytes(3 * mmap.PAGESIZE + 7)
    (tmp_path / "file").write_bytes(content)
    with (
        open(tmp_path / "file", "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
    ):
        assert mapping[:] == content
        platform.release_pages(mapping, first, last)
        assert mapping[:] == content


@pytest.mark.parametrize("has_advice", [True, False])
def test_reading_ahead_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_advice: bool) -> None:
    """Ranges inside, across and beyond the end; where the system has no such call, and where it refuses."""
    if not has_advice:
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
        monkeypatch.delattr(mmap, "MADV_WILLNEED", raising=False)
    content = np.random.default_rng(1).bytes(3 * mmap.PAGESIZE + 7)
    (tmp_path / "file").write_bytes(content)
    with (
        open(tmp_path / "file", "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
    ):
        for first, last in [(0, 0), (5, 9), (mmap.PAGESIZE + 1, len(content)), (0, 10 * len(content))]:
            platform.begin_read(file.fileno(), last - first, first)
            for in_large_pages in (True, False):
                platform.advise_use(mapping, first, last, in_large_pages=in_large_pages)
        assert mapping[:] == content == file.read()
    if has_advice and hasattr(os, "posix_fadvise"):
        monkeypatch.setattr(os, "posix_fadvise", _raising(errno.ESPIPE))
        platform.begin_read(0, 1, 0)


def _raising(number: int) -> object:
    def call(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_interruptions_wait() -> None:
    """Until the block is over; then they come."""
    steps = []

    def interrupted() -> None:
        with platform.interruptions_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("done")
        steps.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert steps == ["done"]
