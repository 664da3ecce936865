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
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.errors import StorageError, UsageError

_MAX_WRITE = 1 << 30
"""Bytes per system call: Linux writes at most 2 GiB - 4 KiB at a time, macOS refuses more than 2 GiB - 1."""

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
    errno.EIO: "the device failed",
    errno.ENOMEM: "not enough memory, or a limit on memory (ulimit -v) is reached",
}

_OTHER_OPEN_FILES = 40
"""Files that a process has open in addition to those that are counted: streams, libraries, sources."""

_position_lock = threading.Lock()


@contextlib.contextmanager
def storage_errors(action: str, path: str | Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError "cannot ACTION PATH: reason", with the errno kept.

    Python's error about a path that no file can have becomes a UsageError. Errors of the package pass
    unchanged.

    action: what is done with the file, as a verb ("read").
    path: the path of the file.
    """
    try:
        yield
    except (StorageError, UsageError):
        raise
    except OSError as error:
        raise StorageError(f"cannot {action} {path}: {reason(error)}", error.errno) from error
    except ValueError as error:
        if is_possible_name(path):
            raise
        raise UsageError(f"cannot {action} {os.fspath(path)!r}: no file can have this name") from error


def reason(error: OSError) -> str:
    """Why the system refused, in words.

    error: the error of the system.
    """
    if error.errno == errno.EMFILE:
        return f"too many open files; this process may have {open_files_limit()} (ulimit -n)"
    return _EXPLANATIONS.get(error.errno or 0) or error.strerror or str(error)


def is_possible_name(path: str | Path) -> bool:
    """Whether the system could have such a path: it has no NUL, and every character can be encoded.

    path: the path to check.
    """
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def open_files_limit() -> int:
    """How many files this process may have open at once; -1 if there is no limit or it is not known."""
    if os.name == "nt":
        return -1
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return -1 if soft == resource.RLIM_INFINITY else soft


def allow_open_files(n_files: int) -> None:
    """Make sure that this process may open more files, by raising its own limit as far as it may.

    n_files: the number of files; some are added for other purposes.

    Raises StorageError if the limit cannot be raised far enough.
    """
    wanted = n_files + _OTHER_OPEN_FILES
    if not 0 <= open_files_limit() < wanted:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return
    raise StorageError(
        f"this takes {n_files} open files at once, and the process may have {max(soft, hard)} (ulimit -n); "
        "raise the limit, or let there be fewer files (larger shards)",
        errno.EMFILE,
    )


@contextlib.contextmanager
def interruptions_deferred() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block is over, so that its work and the record of it stay together.

    Only the main thread gets signals. The handlers are exchanged instead of the thread's signal mask: with a
    mask, the system gives the signal to another thread (NumPy has some), and Python still runs the handler in
    the main thread.
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
            while signal.getsignal(number) is not handler:
                try:
                    signal.signal(number, handler)
                except (
                    KeyboardInterrupt
                ):  # of the one whose handler is back; the other gets its own all the same
                    came.append(signal.SIGINT)
        for signum in came:
            signal.raise_signal(signum)


def available_cpus() -> int:
    """Processors that this process may use: its affinity mask if there is one, else all; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def pwrite_all(fd: int, buffer: memoryview | bytes | NDArray[np.uint8], offset: int) -> None:
    """Write all of a buffer at a position in the file. Threads may write to one file at the same time.

    A call that wrote a part is continued; Python itself repeats one that a signal interrupted (PEP 475).

    fd: the descriptor of the file.
    buffer: the bytes to write; C-contiguous.
    offset: the position in bytes from the start of the file.

    Raises OSError, including ENOSPC; the file then holds a prefix of the buffer.
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
    """Set the length of the file, and reserve its blocks if the file system can.

    A full disk is then reported before any work is done.

    fd: the descriptor of the file.
    nbytes: the length in bytes.

    Raises OSError: ENOSPC, EDQUOT or EFBIG if the bytes are not available.
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
    """As `preallocate`, with every byte zero, whatever the file held.

    fd: the descriptor of the file.
    nbytes: the length in bytes.
    """
    os.ftruncate(fd, 0)
    preallocate(fd, nbytes)


def shorten(fd: int, nbytes: int) -> None:
    """Set the length of the file to a smaller number of bytes.

    fd: the descriptor of the file.
    nbytes: the number of bytes that are kept.
    """
    os.ftruncate(fd, nbytes)


def sync_file(fd: int) -> None:
    """Return when the file's bytes are on the medium.

    fd: the descriptor of the file.
    """
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # not on network file systems
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def begin_sync(fd: int, nbytes: int, offset: int) -> None:
    """Hint that the system should begin to write bytes to the medium, which makes `sync_file` wait less.

    Does nothing on systems without such a hint.

    fd: the descriptor of the file.
    nbytes: the number of bytes.
    offset: the position of the first byte in the file.
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
    """As `sync_file`, without what the bytes do not need (its times): for a file that is flushed often.

    fd: the descriptor of the file.
    """
    if sys.platform != "darwin" and hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        sync_file(fd)


def sync_directory(path: Path) -> None:
    """Make a rename inside the directory durable.

    Does nothing on Windows, or if the file system cannot do it.

    path: the directory.
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
    """Give the finished file its name in one step: `target` is the old file or the new one, never a part.

    source: the finished file, on the same file system.
    target: the name that it gets.
    """
    os.replace(source, target)


def is_same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, also through links.

    False if one of them does not exist or cannot be reached.

    a: a path.
    b: another path.
    """
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):
        return False


def mode_of(path: Path) -> int | None:
    """The type and the permissions of what a path leads to, through links; None if there is nothing.

    path: the path to follow.

    Raises OSError if the path cannot be followed.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_descriptor(path: Path) -> bool:
    """Whether a path is that of an open file of a process (/dev/stdout, /dev/fd/1), or a link to one.

    path: the path to check.

    Raises OSError if the path cannot be followed.
    """
    step = os.fspath(path)
    for _ in range(_MAX_LINKS):
        directory = os.path.realpath(os.path.dirname(step))
        if directory.startswith(_DESCRIPTORS):
            return True
        if not os.path.islink(step):
            return False
        step = os.path.join(directory, os.readlink(step))
    return False


_DESCRIPTORS = ("/proc/", "/dev/fd")
_MAX_LINKS = 40


def leads_to(path: Path, fd: int) -> bool:
    """Whether a path is the name of an open file; a link at its end is not followed.

    path: the path to check.
    fd: the descriptor of the open file.

    Raises OSError.
    """
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


_OPEN_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def open_own(path: Path, flags: int) -> int:
    """Open a file that only this package uses: create it, or take over one that an earlier process left.

    path: the path of the file.
    flags: the flags of os.open, for reading and writing.

    Raises UsageError if there is something else: not a regular file, a file of another user, or one that has
    other names (a link to a file that somebody wants to keep); OSError.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, 0o666)
        try:
            _refuse_foreign(path, os.lstat(path))
            fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | _OPEN_FLAGS)
        except FileNotFoundError:
            continue  # gone in the meantime
        try:
            _refuse_foreign(path, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd


def read_own(path: Path) -> bytes | None:
    """The content of a file that only this package uses; None if it does not exist.

    path: the path of the file.

    Raises what `open_own` raises.
    """
    try:
        _refuse_foreign(path, os.lstat(path))
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _OPEN_FLAGS)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        _refuse_foreign(path, os.fstat(fd))
        return file.read()


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "is not a regular file"
    elif status.st_nlink > 1:
        what = "has another name too (a hard link), under which it would be overwritten"
    elif not _is_ours(status, path.parent):
        what = f"belongs to another user ({status.st_uid})"
    else:
        return
    raise UsageError(
        f"{path} stands where a temporary file would be, and {what}; remove it, or write to another directory"
    )


def _is_ours(status: os.stat_result, directory: Path) -> bool:
    """Whether a file belongs to us, or to the user whom the file system gives the files that we create.

    Some network file systems give them to another user.
    """
    if not hasattr(os, "geteuid") or status.st_uid == os.geteuid():
        return True
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=directory) as made:
        return os.fstat(made.fileno()).st_uid == status.st_uid
    return False


def copy_attributes(source: int | Path, target: int) -> list[str]:
    """Copy owner, mode and extended attributes to an open file; returns what could not be kept, in words.

    The extended attributes include the access control list.

    source: the file to copy from: its path, or its descriptor.
    target: the descriptor of the file to change.
    """
    lost = []
    old, new = os.stat(source), os.fstat(target)
    if hasattr(os, "fchown") and (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(target, old.st_uid, old.st_gid)
        except OSError:
            with contextlib.suppress(OSError):  # the group may be one of ours all the same
                os.fchown(target, -1, old.st_gid)
    new = os.fstat(target)
    if new.st_uid != old.st_uid:
        lost.append(f"its owner (was {old.st_uid}, is {new.st_uid})")
    if new.st_gid != old.st_gid:
        lost.append(f"its group (was {old.st_gid}, is {new.st_gid})")
    lost += _copy_extended_attributes(source, target)
    if hasattr(os, "fchmod"):
        mode = stat.S_IMODE(old.st_mode)
        if lost:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
        try:
            if stat.S_IMODE(new.st_mode) != mode:
                os.fchmod(target, mode)
        except OSError:
            lost.append(f"its mode (was {stat.S_IMODE(old.st_mode):o})")
    return lost


_ACCESS_LIST = "system.posix_acl_access"
_OF_THE_CONTENT = ("security.capability", "security.ima", "security.evm")
"""Extended attributes that describe the bytes, which are different now."""


def _copy_extended_attributes(source: int | Path, target: int) -> list[str]:
    if not hasattr(os, "listxattr"):
        return []
    try:
        old = {name: os.getxattr(source, name) for name in os.listxattr(source)}
        new = {name: os.getxattr(target, name) for name in os.listxattr(target)}
    except OSError:  # ENOTSUP: there are none on this file system
        return []
    lost = []
    for name, value in old.items():
        if name in _OF_THE_CONTENT or new.get(name) == value:
            continue
        try:
            os.setxattr(target, name, value)
        except OSError:
            lost.append("its access control list" if name == _ACCESS_LIST else f"the attribute {name}")
    if _ACCESS_LIST in new and _ACCESS_LIST not in old:  # the directory's default
        with contextlib.suppress(OSError):
            os.removexattr(target, _ACCESS_LIST)
    return lost


def read_regular(path: str | Path, most: int) -> bytes:
    """The content of a regular file.

    path: the path of the file.
    most: the largest accepted size in bytes.

    Raises UsageError if it is something else (a device has no end, a pipe may never have one) or longer;
    StorageError.
    """
    with storage_errors("read", path):
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} is not a regular file; save what it gives to a file, and name that")
        parts, nbytes = [], 0
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                parts.append(part)
                nbytes += len(part)
                if nbytes > most:
                    raise UsageError(f"{path} is longer than {most} bytes, the most that is read here")
    return b"".join(parts)


def release_pages(mapping: mmap.mmap, first: int, last: int) -> None:
    """Hint that bytes of a mapped file, already read, need not stay in this process's memory.

    For read-only mappings of files: a later access reads the page again. The page that holds `last` is kept
    for the next reader.

    mapping: the mapped file.
    first: the first byte.
    last: the end of the range, exclusive.
    """
    if not hasattr(mapping, "madvise") or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first, last = (position // mmap.PAGESIZE * mmap.PAGESIZE for position in (first, last))
    if first < last:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def advise_use(mapping: mmap.mmap, first: int, last: int, *, in_large_pages: bool = True) -> None:
    """Hint that bytes of a mapped file will be needed soon: the system reads them ahead.

    Does nothing on systems without such a hint.

    mapping: the mapped file.
    first: the first byte.
    last: the end of the range, exclusive.
    in_large_pages: whether it may map them in large pages, if it can.
    """
    if not hasattr(mapping, "madvise"):
        return
    first, last = first // mmap.PAGESIZE * mmap.PAGESIZE, min(last, len(mapping))
    for advice in ("MADV_HUGEPAGE", "MADV_WILLNEED") if in_large_pages else ("MADV_WILLNEED",):
        if first < last and hasattr(mmap, advice):
            with contextlib.suppress(OSError):  # EINVAL: no large pages for this file system
                mapping.madvise(getattr(mmap, advice), first, last - first)


def begin_read(fd: int, nbytes: int, offset: int) -> None:
    """Hint that bytes of a file will be needed soon, so that the system begins to read them.

    Does nothing on systems without such a hint.

    fd: the descriptor of the file.
    nbytes: the number of bytes.
    offset: the position of the first byte in the file.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_WILLNEED)


BEYOND_ALL_FILES = (1 << 63) - 2
"""An offset at which no file has a byte."""


def try_lock(fd: int, offset: int = 0) -> bool:
    """Lock an open file against other processes until it is closed; False if another one holds the lock.

    The lock affects only processes that try to lock the file too. If the file system has no locks (some
    network mounts), nobody is kept out, and the answer is True.

    fd: the descriptor of the file.
    offset: the byte that stands for the file on systems that lock bytes (Windows), and keep others from
        reading it.
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
    """Give up the lock of `try_lock` before the file is closed, because a map of the file would keep it.

    fd: the descriptor of the file.
    offset: the offset that `try_lock` got.
    """
    with contextlib.suppress(OSError):
        if os.name == "nt":
            import msvcrt

            os.lseek(fd, offset, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_UN)


def read_at(fd: int, nbytes: int, offset: int) -> bytes:
    """Read bytes at a position; fewer only at the end of the file.

    Threads may read one file at the same time.

    fd: the descriptor of the file.
    nbytes: the most bytes to read.
    offset: the position in bytes from the start of the file.
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
