"""Formats beside ggml's: families of encodings, each in a package of its own that registers itself.

A family is a package of gguflow with a module `family` that has a `FAMILY`; it is found by listing. Outside
its package two protocols are known: an `Encoding`, the format of a tensor that is stored as a payload, and
what `gguflow.sources.base.StoredPayload` says of a payload that is read. For each
stage of the work the package has a module (`part`): the protocols of these modules stand where they are used.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Protocol

from gguflow import blocks
from gguflow.arguments import suggestion
from gguflow.blocks.base import BlockFormat, Importance


class Encoding(Protocol):
    """The format of a payload: an encoding of a family, as recipes, plans and readers know it."""

    @property
    def family(self) -> str:
        """The name of its package."""

    @property
    def name(self) -> str:
        """As users write it ("nf4_b64"); longer names are made of parameters."""

    @property
    def key(self) -> str:
        """The name in lower case."""

    @property
    def block_size(self) -> int:
        """Always 1: rows of any length are accepted."""

    @property
    def bits_per_weight(self) -> float:
        """For large tensors, including scales, before entropy coding."""

    @property
    def importance(self) -> Importance:
        """Whether the encoder uses the importance of columns."""

    @property
    def is_quantized(self) -> bool:
        """As `BlockFormat.is_quantized`."""

    @property
    def is_lossless(self) -> bool:
        """Whether decoding gives exactly the same weights."""

    @property
    def is_coded(self) -> bool:
        """Whether its payloads are entropy-coded."""

    @property
    def is_fixed_size(self) -> bool:
        """Whether the shape alone determines the size of a payload."""


Format = BlockFormat | Encoding


class Family(Protocol):
    """A family of encodings."""

    @property
    def name(self) -> str:
        """The name of its package."""

    @property
    def magic(self) -> bytes:
        """The first bytes of its payloads."""

    @property
    def free_prefix(self) -> str:
        """The beginning of names that consist of parameters."""

    def is_name(self, name: str) -> bool:
        """Whether a name looks like one of the family; `find` may still refuse it.

        name: as users write it.
        """

    def find(self, name: str) -> Encoding:
        """The encoding with this name.

        name: as users write it.

        Raises UnknownFormatError, UsageError.
        """

    def presets(self) -> Mapping[str, Encoding]:
        """The encodings that have a name of their own, by name."""


@functools.cache
def families() -> tuple[Family, ...]:
    """All families, sorted by the name of the package."""
    import gguflow

    found = []
    for info in pkgutil.iter_modules(gguflow.__path__):
        inside = pkgutil.iter_modules([f"{path}/{info.name}" for path in gguflow.__path__])
        if any(module.name == "family" for module in inside):
            found.append(importlib.import_module(f"gguflow.{info.name}.family").FAMILY)
    return tuple(found)


def family_of(name: str) -> Family | None:
    """The family that may have an encoding with this name, or None.

    name: as users write it.
    """
    return next((family for family in families() if family.is_name(name)), None)


def family_at(head: bytes) -> Family:
    """The family of a payload; if none is found, the first one, whose readers then refuse it.

    head: the first bytes of the payload; 16 are enough.
    """
    known = families()
    return next((family for family in known if head.startswith(family.magic)), known[0])


def find_encoding(name: str) -> Encoding | None:
    """The encoding with this name, or None if no family has names like it.

    name: as users write it.

    Raises what `Family.find` raises.
    """
    family = family_of(name)
    return None if family is None else family.find(name)


def closest_format(name: str, others: Iterable[str] = ()) -> str:
    """The end of an error message that suggests a format for a misspelt name, or "" if none is close.

    name: as it was written.
    others: more names, in addition to those of block formats and encodings.
    """
    encodings = (preset for family in families() for preset in family.presets())
    return suggestion(name, (*others, *blocks.FORMATS, *encodings))


def as_encoding(format: Format) -> Encoding | None:
    """The format if it is an encoding; None for a block format."""
    return None if isinstance(format, BlockFormat) else format


def part(family: str, name: str) -> ModuleType:
    """A module of a family, imported on first use.

    family: name of the family's package.
    name: of the module in the package ("stages.engine").
    """
    return importlib.import_module(f"gguflow.{family}.{name}")


def parts(name: str) -> list[ModuleType]:
    """The modules with this name in all families.

    name: of the module in the package.
    """
    return [part(family.name, name) for family in families()]
