"""How every kernel is compiled and cached: one policy.

nogil         threads run kernels side by side (a ThreadPoolExecutor over rows; Numba's own threading layers
              stay out of it). Only `short_kernel` keeps the interpreter's lock.
error_model   "numpy": division by zero gives infinity or NaN, as in C, and costs no branch.
fastmath      never: the order and rounding of every float operation is part of the format.
boundscheck   off; callers prove their sizes (the test suite runs kernels with NUMBA_BOUNDSCHECK=1 as well).

The cache. Numba's own cache looks only at the file of the cached function: a change in a helper in another
file would replay stale code (https://numba.readthedocs.io/en/stable/developer/caching.html, "Caching
limitations"). So compiled kernels live in a directory named after a digest of all kernel sources and the
versions of Numba, llvmlite and NumPy: any change begins a new, empty cache.

The cache is only a cache. It holds machine code in pickles, so nothing is read that somebody else could have
written: the directory is a real one of ours that nobody else may write to, and so is each file. Each file
begins with a digest of its name and of the rest, and gets its name when it is complete, so that a cut one (a
full disk, a power failure) is noticed before it is unpickled. Whatever is wrong, kernels compile afresh, and
replace what is wrong where they can.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import stat
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import llvmlite
import numba
import numpy as np
from numba.core import caching
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from gguflow import platform
from gguflow.errors import UsageError

if numba.config.DISABLE_JIT:
    raise UsageError(
        "gguflow's kernels are compiled by Numba, and NUMBA_DISABLE_JIT=1 forbids that; unset the variable"
    )

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = Path(__file__).resolve().parent.parent
_STALE_AFTER_DAYS = 60


def kernel(function: F) -> F:
    """Compile `function` with Numba at its first call, under the policy of this module, with cached machine
    code.
    """
    return _cached(numba.njit(nogil=True, error_model="numpy", fastmath=False)(function), function)


def short_kernel(function: F) -> F:
    """As `kernel`, for what takes some 20 us: it keeps the interpreter's lock, as letting it go and getting
    it back costs more.
    """
    return _cached(numba.njit(nogil=False, error_model="numpy", fastmath=False)(function), function)


def _cached(dispatcher: F, function: F) -> F:
    if cache_directory() is not None:
        with contextlib.suppress(RuntimeError):  # "no locator available": run uncached
            dispatcher._cache = _KernelCache(function)  # type: ignore[attr-defined]
    return dispatcher


def helper(function: F) -> F:
    """As `kernel`, for a function that only kernels call: no entry for Python, no cache of its own. Saves a
    third of the time to compile.
    """
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": False,
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    return numba.njit(**options)(function)


@functools.cache
def source_digest() -> str:
    """A digest of all that decides what machine code a kernel becomes, short enough for a directory name."""
    digest = hashlib.sha256()
    for path in sorted((_PACKAGE / "kernels").rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for version in (numba.__version__, llvmlite.__version__, np.__version__, sys.version):
        digest.update(version.encode() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def cache_directory() -> Path | None:
    """Where compiled kernels are kept, or None where no directory of the user's can be written, or somebody
    else may write to it.

    GGUFLOW_CACHE_DIR overrides the choice; else it is the platform's directory for caches.
    """
    if override := os.environ.get("GGUFLOW_CACHE_DIR"):
        base = Path(override)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "gguflow"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches" / "gguflow"
    else:
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "gguflow"
    directory = base / f"kernels-{source_digest()}"
    try:
        is_new = not os.path.lexists(directory)
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if not _is_private(os.lstat(directory), stat.S_ISDIR) or _may_be_exchanged(base):
            with contextlib.suppress(RuntimeWarning):
                warnings.warn(
                    f"compiled kernels are not kept: {directory} is not a directory of ours that nobody else "
                    "may write to",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return None
        probe = directory / f".probe-{uuid.uuid4().hex}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        probe.unlink()
        if is_new:
            _remove_stale(base, directory)
        os.utime(directory)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: no home directory is known
        return None
    return directory


def _is_private(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether something of that kind is ours, and nobody else may write to it."""
    if not is_kind(status.st_mode):
        return False
    return os.name == "nt" or (status.st_uid == os.geteuid() and status.st_mode & 0o022 == 0)


def _may_be_exchanged(base: Path) -> bool:
    """Whether another user may put another directory in the place of one in `base`: as its owner, or as
    everybody may.
    """
    if os.name == "nt":
        return False
    status = os.stat(base)
    is_open = bool(status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    return is_open or status.st_uid not in (0, os.geteuid())


def _remove_stale(base: Path, current: Path) -> None:
    """Delete kernel caches of other versions that nothing has used for a long time."""
    oldest = time.time() - _STALE_AFTER_DAYS * 86400
    for directory in base.glob("kernels-*"):
        status = os.lstat(directory)
        if directory != current and _is_private(status, stat.S_ISDIR) and status.st_mtime < oldest:
            with contextlib.suppress(OSError):
                for path in directory.glob("*.nb[ci]*"):
                    path.unlink(missing_ok=True)
                directory.rmdir()


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Tells Numba where a kernel's files go, and that the directory's name already answers for the freshness
    of the source.
    """

    def __init__(self, py_func: Any, py_file: str, directory: Path) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        self._directory = str(directory)

    def get_cache_path(self) -> str:
        return self._directory

    def get_source_stamp(self) -> str:
        return source_digest()

    def get_disambiguator(self) -> str:
        path = Path(self._py_file)
        return f"{path.parent.name}-{path.stem}-{self._lineno}"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator | None:
        directory = cache_directory()
        return None if directory is None else cls(py_func, py_file, directory)


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes: ClassVar[list[type]] = [_Locator]


class _CacheFile(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index and data, in files that are proved before they are unpickled."""

    def _load_index(self) -> dict[Any, str]:
        try:
            stamp, overloads = pickle.loads(_read_proved(self._index_path))
            return overloads if stamp == (self._version, self._source_stamp) else {}
        except Exception:  # of pickle too; what cannot be used is replaced
            return {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        _write_proved(self._index_path, dumps(((self._version, self._source_stamp), overloads)))

    def _load_data(self, name: str) -> Any:
        return pickle.loads(_read_proved(self._data_path(name)))

    def _save_data(self, name: str, data: Any) -> None:
        _write_proved(self._data_path(name), dumps(data))


_DIGEST_NBYTES = hashlib.sha256().digest_size


def _read_proved(path: str) -> bytes:
    """The content behind its digest. Raises OSError, ValueError."""
    flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not _is_private(status, stat.S_ISREG) or status.st_nlink != 1:
            raise ValueError("not a file of ours")
        content = file.read()
    digest, rest = content[:_DIGEST_NBYTES], content[_DIGEST_NBYTES:]
    if _digest(path, rest) != digest:
        raise ValueError("not what was written")
    return rest


def _digest(path: str, content: bytes) -> bytes:
    return hashlib.sha256(os.fsencode(os.path.basename(path)) + b"\0" + content).digest()


def _write_proved(path: str, content: bytes) -> None:
    """The content behind its digest, under its name at once. Raises OSError."""
    temporary = f"{path}.{uuid.uuid4().hex[:16]}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(_digest(path, content) + content)
        platform.replace_file(Path(temporary), Path(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        base, stamp = self._impl.filename_base, self._impl.locator.get_source_stamp()
        self._cache_file = _CacheFile(self._cache_path, base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled code from the cache, or None. Numba's own first imports all that might be compiled, a
        tenth of a second: compiled code needs the run-time system only, and where something has to be
        compiled after all, the compiler asks for those imports itself.
        """
        rtsys.initialize(target_context)
        try:
            return self._load_overload(sig, target_context)
        except Exception:  # whatever it was, compiling it again gives the same code
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, where there is room for it."""
        with contextlib.suppress(Exception):
            self._save_overload(sig, data)
