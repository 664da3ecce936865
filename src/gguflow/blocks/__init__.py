"""Block formats, found by listing this package. A file declares one as `FORMAT` and has its name; formats
that differ in their number type only share a file, which declares them as a tuple, `FORMATS`.

`FORMATS["q4_k"]` and `by_id(12)` are the only look-ups; there is no table to edit when a format is added.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType

from gguflow.arguments import shown
from gguflow.blocks.base import BlockFormat
from gguflow.errors import UnknownFormatError

__all__ = ["FORMATS", "QUANTIZATION_VERSION", "BlockFormat", "block_sizes", "by_id", "by_name"]

QUANTIZATION_VERSION = 2
"""The generation of ggml's block layouts that these are: `general.quantization_version`."""


@functools.cache
def _discovered() -> dict[str, BlockFormat]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    declared = sorted((f for module in modules for f in _declared(module)), key=lambda f: f.id)
    found = {f.key: f for f in declared}
    if not len(declared) == len(found) == len({f.id for f in declared}):
        raise TypeError("two block formats share a name or an id")
    return found


def _declared(module: ModuleType) -> tuple[BlockFormat, ...]:
    """The formats that a module of this package declares."""
    if formats := getattr(module, "FORMATS", None):
        return tuple(formats)
    block_format = getattr(module, "FORMAT", None)
    if block_format is None:
        return ()
    if module.__name__ != f"{__name__}.{block_format.key}":
        raise TypeError(f"{module.__name__} declares {block_format.name}")
    return (block_format,)


class _NoSuchFormat(UnknownFormatError, KeyError):
    """What a look-up raises, so that `in` and `get` work; it reads as every other error."""

    def __str__(self) -> str:
        return str(self.args[0])


class _Formats(Mapping[str, BlockFormat]):
    """All block formats by name, in any case, in the order of their ids; read on first use."""

    def __getitem__(self, name: str) -> BlockFormat:
        """Raises UnknownFormatError, which is a KeyError here too."""
        found = _discovered().get(name.lower()) if isinstance(name, str) else None
        if found is None:
            raise _NoSuchFormat(_unknown(name))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_discovered())

    def __len__(self) -> int:
        return len(_discovered())

    def __repr__(self) -> str:
        return f"<{len(self)} block formats: {', '.join(self)}>"


FORMATS: Mapping[str, BlockFormat] = _Formats()


def by_name(name: str) -> BlockFormat:
    """The format of this name, in any case.

    Raises UnknownFormatError, which lists the known names and suggests the one that is closest.
    """
    found = _discovered().get(name.lower()) if isinstance(name, str) else None
    if found is None:
        raise UnknownFormatError(_unknown(name))
    return found


def _unknown(name: object) -> str:
    """The words of an error; what was meant may also be an encoding."""
    from gguflow.blocks.families import closest_format

    hint = closest_format(name) if isinstance(name, str) else ""
    return f"unknown block format {shown(name)}; known: {', '.join(_discovered())}{hint}"


def by_id(type_id: int) -> BlockFormat | None:
    """The format with this ggml type number, or None."""
    return _by_id().get(type_id)


def block_sizes(type_id: int) -> tuple[int, int] | None:
    """(block_size, type_size) of a ggml type number, or None; what the container knows of block formats."""
    block_format = by_id(type_id)
    return (block_format.block_size, block_format.type_size) if block_format else None


@functools.cache
def _by_id() -> dict[int, BlockFormat]:
    return {block_format.id: block_format for block_format in _discovered().values()}
