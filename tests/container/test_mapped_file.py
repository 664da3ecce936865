"""Files read by ranges: the same bytes both ways, and typed errors for files that are not what they were."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from gguflow import platform
from gguflow.container.mapped_file import IO_MODES, MappedFile, check_unchanged
from gguflow.errors import InvalidError, MalformedError, StorageError, UsageError

CONTENT = np.random.default_rng(0).bytes(3 * mmap.PAGESIZE + 7)

both_ways = pytest.mark.parametrize("io", IO_MODES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@both_ways
def test_ranges(path: Path, io: str) -> None:
    file = MappedFile(path, io)
    assert file.identity == (len(CONTENT), path.stat().st_mtime_ns)
    assert file.current_nbytes() == len(CONTENT)
    for start, stop in [(0, 0), (0, 1), (5, mmap.PAGESIZE + 9), (7, len(CONTENT)), (len(CONTENT),) * 2]:
        file.prefetch(start, stop)
        found = file.read(start, stop)
        assert found.tobytes() == CONTENT[start:stop]
        assert not found.flags.writeable
        file.release(start, stop)
    assert file.map_all().tobytes() == CONTENT
    file.close()


@both_ways
def test_what_was_read_outlives_the_file(path: Path, io: str) -> None:
    file = MappedFile(path, io)
    part, whole = file.read(3, 9), file.map_all()
    file.close()
    file.close()
    assert (part.tobytes(), whole.tobytes()) == (CONTENT[3:9], CONTENT)
    file.prefetch(0, 9)
    file.release(0, 9)
    for touched in (lambda: file.read(0, 1), file.map_all, file.current_nbytes):
        with pytest.raises(UsageError, match="is closed"):
            touched()


def test_another_io_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="io is mmap or pread, not 'read'"):
        MappedFile(path, "read")


@both_ways
def test_another_file_than_expected(path: Path, io: str) -> None:
    """R-001, an empty one too."""
    identity = MappedFile(path, io).identity
    MappedFile(path, io, expected=identity).close()
    for content in (CONTENT + b"\0", b""):
        path.write_bytes(content)
        with pytest.raises(InvalidError, match="R-001"):
            MappedFile(path, io, expected=identity)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let a mapped file change")
@both_ways
def test_a_file_that_shrinks(path: Path, io: str) -> None:
    """R-002 where a range is gone; what is still there can be read."""
    file = MappedFile(path, io)
    check_unchanged(path, file.identity)
    os.truncate(path, 100)
    assert file.read(90, 100).tobytes() == CONTENT[90:100]
    with pytest.raises(InvalidError, match="R-002"):
        file.read(90, 101)
    with pytest.raises(InvalidError, match="R-002"):
        check_unchanged(path, file.identity)
    if io == "pread":
        with pytest.raises(InvalidError, match="R-001"):
            file.map_all()
    file.close()


def test_a_map_that_grows(path: Path) -> None:
    """Where the caller keeps the file open; views of the first map stay good."""
    fd = os.open(path, os.O_RDWR)
    try:
        file = MappedFile(path, fd=fd)
        view = file.read(0, len(CONTENT))
        platform.pwrite_all(fd, b"more", len(CONTENT))
        assert file.current_nbytes() == len(CONTENT) + 4
        assert file.read(len(CONTENT) - 1, len(CONTENT) + 4).tobytes() == CONTENT[-1:] + b"more"
        assert file.nbytes == len(CONTENT)
        assert view.tobytes() == CONTENT
        file.close()
        os.fstat(fd)
        own = MappedFile(path)
        platform.pwrite_all(fd, b"more", len(CONTENT) + 4)
        with pytest.raises(UsageError, match="asked for"):
            own.read(0, len(CONTENT) + 8)
        own.close()
    finally:
        os.close(fd)


@both_ways
def test_what_cannot_be_opened(tmp_path: Path, io: str) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StorageError, match=r"no such file|is a directory"):
            MappedFile(path, io)
    (tmp_path / "empty").touch()
    with pytest.raises(MalformedError, match="C-001"):
        MappedFile(tmp_path / "empty", io).map_all()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InvalidError, match="C-035"):
            MappedFile(tmp_path / "pipe", io)


@both_ways
def test_a_close_that_fails_loses_nothing(path: Path, io: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may report an error that has nothing to do with what was read."""
    close = os.close

    def fail(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        file = MappedFile(path, io)
        assert file.read(0, 5).tobytes() == CONTENT[:5]
        file.close()
        file.close()
