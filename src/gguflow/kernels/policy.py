"""How every kernel is compiled and cached: one policy.

nogil         threads run kernels side by side (a ThreadPoolExecutor over rows; Numba's own threading layers
              stay out of it). Only `short_kernel` keeps the interpreter's lock.
error_model   "numpy": division by zero gives infinity or NaN, as in C, and costs no branch.
fastmath      never: the order and rounding of every float operation is part of the format.
boundscheck   off; callers prove their sizes (the test suite runs kernels with NUMBA_BOUNDSCHECK=1 as well).

The cache. Numba's own cache looks only at the file of the cached function: a change in a helper in another
file would replay stale code (https://numba.readthedocs.io/en/stable/developer/caching.html, "Caching
limitations"). So compiled kernels live in a directory named after a digest of all kernel sources and the
versions of Numba, llvmlite and NumPy: any change begins a new, empty cache. The directory is private to the
user (the cache holds machine code). Where none can be written, kernels compile afresh in each process, and
everything works.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import llvmlite
import numba
import numpy as np
from numba.core import caching
from numba.core.runtime import rtsys

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
    """Where compiled kernels are kept, or None where no directory of the user's can be written.

    GGUFLOW_CACHE_DIR overrides the choice; else it is the platform's directory for caches.
    """
    if override := os.environ.get("GGUFLOW_CACHE_DIR"):
        base = Path(override)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "gguflow"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches" / "gguflow"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gguflow"
    directory = base / f"kernels-{source_digest()}"
    try:
        is_new = not directory.exists()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and directory.stat().st_uid != os.getuid():
            return None
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        if is_new:
            _remove_stale(base, directory)
        os.utime(directory)
    except (OSError, RuntimeError):  # RuntimeError: no home directory is known
        return None
    return directory


def _remove_stale(base: Path, current: Path) -> None:
    """Delete kernel caches of other versions that nothing has used for a long time."""
    oldest = time.time() - _STALE_AFTER_DAYS * 86400
    for directory in base.glob("kernels-*"):
        if directory != current and directory.stat().st_mtime < oldest:
            for path in directory.glob("*.nb[ci]"):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
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


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled code from the cache, or None. Numba's own first imports all that might be compiled, a
        tenth of a second: compiled code needs the run-time system only, and where something has to be
        compiled after all, the compiler asks for those imports itself.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)
