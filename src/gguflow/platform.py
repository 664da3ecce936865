"""What differs between operating systems, in one small file: positioned writes, durability, page hints,
processors.

Tested on Linux. On macOS a plain fsync stops at the drive's own cache (F_FULLFSYNC goes through it), and
there is no posix_fallocate. Windows has no pwrite, no directory handles to sync, and does not replace a file
that is mapped.

Functions here raise OSError as the system gives it; `storage_errors` turns one into a StorageError that says
what was being done to which file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.errors import StorageError

_MAX_WRITE = 1 << 30
"""Bytes for one system call: Linux writes at most 2 GiB - 4 KiB at a time, macOS refuses more than
2 GiB - 1.
"""

_EXPLANATIONS = {
    errno.ENOSPC: "no space left on the device",
    getattr(errno, "EDQUOT", errno.ENOSPC): "the disk quota is used up",
    errno.EFBIG: "the file system or a resource limit does not allow a file of this size",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "no such file or directory",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.EISDIR: "it is a directory",
    errno.ELOOP: "its symbolic links go in a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EMFILE: "too many open files",
    errno.EIO: "the device failed",
}

_position_lock = threading.Lock()


@contextlib.contextmanager
def storage_errors(action: str, path: str | Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError "cannot ACTION PATH: reason", with the errno kept. A
    StorageError passes as it is.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = _EXPLANATIONS.get(error.errno or 0) or error.strerror or str(error)
        raise StorageError(f"cannot {action} {path}: {reason}", error.errno) from error


@contextlib.contextmanager
def interruptions_deferred() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over: what it makes and the note of it are not torn apart.
    Only the main thread gets signals.

    The handlers are exchanged, not the thread's signal mask: with a mask the system gives the signal to
    another thread (NumPy has some), and Python runs the handler in the main thread all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {
        number: handler for number, handler in handlers.items() if handler is not None
    }  # None: not Python's to restore
    for number in handlers:
        signal.signal(number, lambda signum, frame: came.append(signum))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for signum in came:
            signal.raise_signal(signum)


def available_cpus() -> int:
    """Processors that this process may use: its affinity mask where there is one, else all; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def pwrite_all(fd: int, buffer: memoryview | bytes | NDArray[np.uint8], offset: int) -> None:
    """Write all of a C-contiguous buffer at `offset` bytes from the start of the file. Threads may write to
    one file side by side.

    A call that wrote a part is continued; one that a signal interrupted is repeated by Python itself (PEP
    475).
    Raises OSError, ENOSPC included; the file then holds some prefix of the buffer.
    """
    view = buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)
    rest = view.cast("B") if view.nbytes else view
    while rest.nbytes:
        written = _write_at(fd, rest[:_MAX_WRITE], offset)
        if written <= 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        rest = rest[written:]
        offset += written


def _write_at(fd: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, buffer, offset)
    with _position_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, buffer)


def preallocate(fd: int, nbytes: int) -> None:
    """Make the file nbytes long, with its blocks reserved where the file system can, so that a full disk
    shows before any work is done.

    Raises OSError: ENOSPC, EDQUOT or EFBIG where the bytes are not to be had.
    """
    if nbytes and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, nbytes)
        except OSError as error:
            if error.errno not in (
                errno.EOPNOTSUPP,
                errno.ENOTSUP,
                errno.EINVAL,
                errno.ENOSYS,
            ):  # no such thing on this file system
                raise
    os.ftruncate(fd, nbytes)


def preallocate_anew(fd: int, nbytes: int) -> None:
    """As preallocate, with every byte zero, whatever the file held."""
    os.ftruncate(fd, 0)
    preallocate(fd, nbytes)


def shorten(fd: int, nbytes: int) -> None:
    """Cut the file off behind its first nbytes."""
    os.ftruncate(fd, nbytes)


def sync_file(fd: int) -> None:
    """Return when the file's bytes are on the medium."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # not on network file systems
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def begin_sync(fd: int, nbytes: int, offset: int) -> None:
    """Let the system begin to write these bytes to the medium, so that `sync_file` has less to wait for. Only
    a hint: nothing where it takes none.
    """
    call = _sync_file_range()
    if call is not None:
        call(
            fd, offset, nbytes, 2
        )  # SYNC_FILE_RANGE_WRITE: begin, do not wait. What fails here, sync_file reports


@functools.cache
def _sync_file_range() -> Callable[..., int] | None:
    """Linux's system call of that name, which Python does not offer."""
    if sys.platform != "linux":
        return None
    import ctypes

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call


def sync_data(fd: int) -> None:
    """As sync_file, without what the file's bytes do not need (its times): for a file that is flushed again
    and again.
    """
    if sys.platform != "darwin" and hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        sync_file(fd)


def sync_directory(path: Path) -> None:
    """Make a rename inside the directory durable. Nothing on Windows, and nothing on file systems that
    cannot.
    """
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def replace_file(source: Path, target: Path) -> None:
    """Give the finished file its name, in one step: whoever opens `target` sees the old file or the new one,
    never a part. Same file system.
    """
    os.replace(source, target)


def is_same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, through links too; False where either does not exist."""
    try:
        return os.path.samefile(a, b)
    except (FileNotFoundError, NotADirectoryError):
        return False


def release_pages(mapping: mmap.mmap, first: int, last: int) -> None:
    """Tell the system that the mapped file's bytes [first, last), already read, need not stay in this
    process's memory.

    Only a hint, for read-only mappings of files: a later access reads the page again. The page that holds
    `last` is kept for the next reader.
    """
    if not hasattr(mapping, "madvise") or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first, last = (position // mmap.PAGESIZE * mmap.PAGESIZE for position in (first, last))
    if first < last:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def advise_use(mapping: mmap.mmap, first: int, last: int, *, in_large_pages: bool = True) -> None:
    """Tell the system that the mapped file's bytes [first, last) will be wanted soon: it reads them ahead,
    and maps them in large pages if it can.

    Only a hint, and nothing where the system takes none.
    """
    if not hasattr(mapping, "madvise"):
        return
    first, last = first // mmap.PAGESIZE * mmap.PAGESIZE, min(last, len(mapping))
    for advice in ("MADV_HUGEPAGE", "MADV_WILLNEED") if in_large_pages else ("MADV_WILLNEED",):
        if first < last and hasattr(mmap, advice):
            with contextlib.suppress(OSError):  # EINVAL: no large pages for this file system
                mapping.madvise(getattr(mmap, advice), first, last - first)


def begin_read(fd: int, nbytes: int, offset: int) -> None:
    """Let the system begin to read these bytes of a file, which will be wanted soon. Only a hint: nothing
    where it takes none.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_WILLNEED)


BEYOND_ALL_FILES = (1 << 63) - 2
"""An offset at which no file has a byte."""


def try_lock(fd: int, offset: int = 0) -> bool:
    """Lock an open file against every other process that asks, until it is closed; False where another holds
    the lock.

    offset: of the byte that stands for the file where the system locks bytes (Windows), and keeps others from
    reading it.
    Where the file system has no locks (some network mounts), nobody is kept out, and the answer is True.
    """
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(fd, offset, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True


def unlock(fd: int, offset: int = 0) -> None:
    """Give up the lock of `try_lock` before the file is closed: a map of the file would keep it."""
    with contextlib.suppress(OSError):
        if os.name == "nt":
            import msvcrt

            os.lseek(fd, offset, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_UN)


def read_at(fd: int, nbytes: int, offset: int) -> bytes:
    """Up to nbytes from `offset` bytes after the start of the file; fewer only at its end. Threads may read
    one file side by side.
    """
    parts = []
    while nbytes:
        part = _read_at(fd, min(nbytes, _MAX_WRITE), offset)
        if not part:
            break
        parts.append(part)
        nbytes -= len(part)
        offset += len(part)
    return b"".join(parts) if len(parts) != 1 else parts[0]


def _read_at(fd: int, nbytes: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, nbytes, offset)
    with _position_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, nbytes)
