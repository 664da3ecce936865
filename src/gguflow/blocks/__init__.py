"""Block formats: one file each, found by listing this package.

`FORMATS["q4_k"]` and `by_id(12)` are the only look-ups; there is no table to edit when a format is added.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from gguflow.blocks.base import BlockFormat
from gguflow.errors import UnknownFormatError

__all__ = ["FORMATS", "QUANTIZATION_VERSION", "BlockFormat", "block_sizes", "by_id", "by_name"]

QUANTIZATION_VERSION = 2
"""The generation of ggml's block layouts that these are: `general.quantization_version`."""


@functools.cache
def _discovered() -> dict[str, BlockFormat]:
    found: dict[str, BlockFormat] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        block_format = getattr(module, "FORMAT", None)
        if isinstance(block_format, BlockFormat):
            if block_format.key != info.name:
                raise TypeError(f"blocks/{info.name}.py declares {block_format.name}")
            found[info.name] = block_format
    ordered = dict(sorted(found.items(), key=lambda item: item[1].id))
    if len({f.id for f in ordered.values()}) != len(ordered):
        raise TypeError("two block formats share an id")
    return ordered


class _Formats(Mapping[str, BlockFormat]):
    """All block formats by lower-case name, in the order of their ids; read on first use."""

    def __getitem__(self, name: str) -> BlockFormat:
        return _discovered()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_discovered())

    def __len__(self) -> int:
        return len(_discovered())

    def __repr__(self) -> str:
        return f"<{len(self)} block formats: {', '.join(self)}>"


FORMATS: Mapping[str, BlockFormat] = _Formats()


def by_name(name: str) -> BlockFormat:
    """The format of this name, in any case. Raises UnknownFormatError, which lists the known names."""
    try:
        return _discovered()[name.lower()]
    except KeyError:
        raise UnknownFormatError(
            f"unknown block format {name!r}; known: {', '.join(_discovered())}"
        ) from None


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
