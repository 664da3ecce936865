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
        """As users write it ("nf4_b64"); names with more detail are made of parameters."""

    @property
    def key(self) -> str:
        """The name, in lower case."""

    @property
    def block_size(self) -> int:
        """1: rows of any length are taken."""

    @property
    def bits_per_weight(self) -> float:
        """Of large tensors, scales included; before entropy coding."""

    @property
    def importance(self) -> Importance:
        """Whether the encoder takes the importance of columns."""

    @property
    def is_quantized(self) -> bool:
        """As `BlockFormat.is_quantized`."""

    @property
    def is_lossless(self) -> bool:
        """Whether the weights come back as they were."""

    @property
    def is_coded(self) -> bool:
        """Whether its payloads are entropy-coded."""

    @property
    def is_fixed_size(self) -> bool:
        """Whether the size of a payload is known from its shape."""


Format = BlockFormat | Encoding


class Family(Protocol):
    """A family of encodings."""

    @property
    def name(self) -> str:
        """Of its package."""

    @property
    def magic(self) -> bytes:
        """The first bytes of its payloads."""

    @property
    def free_prefix(self) -> str:
        """What the name of an encoding begins with that is spelled out by its parameters."""

    def is_name(self, name: str) -> bool:
        """Whether a name looks like one of the family; `find` may still refuse it."""

    def find(self, name: str) -> Encoding:
        """The encoding of this name. Raises UnknownFormatError, UsageError."""

    def presets(self) -> Mapping[str, Encoding]:
        """The encodings that have a name of their own."""


@functools.cache
def families() -> tuple[Family, ...]:
    """Every family, by the name of its package."""
    import gguflow

    found = []
    for info in pkgutil.iter_modules(gguflow.__path__):
        inside = pkgutil.iter_modules([f"{path}/{info.name}" for path in gguflow.__path__])
        if any(module.name == "family" for module in inside):
            found.append(importlib.import_module(f"gguflow.{info.name}.family").FAMILY)
    return tuple(found)


def family_of(name: str) -> Family | None:
    """The family in which a name may be one of an encoding, or None."""
    return next((family for family in families() if family.is_name(name)), None)


def family_at(head: bytes) -> Family:
    """The family whose payloads begin with these bytes (16 are enough); where none does, the first one, whose
    readers then refuse them.
    """
    known = families()
    return next((family for family in known if head.startswith(family.magic)), known[0])


def find_encoding(name: str) -> Encoding | None:
    """The encoding of this name; None where no family knows such names. Raises what `Family.find` raises."""
    family = family_of(name)
    return None if family is None else family.find(name)


def closest_format(name: str, others: Iterable[str] = ()) -> str:
    """The end of an error message that suggests what a misspelt name may mean; "" if nothing is close.

    name: as it was written.
    others: names beside those of block formats and encodings.
    """
    encodings = (preset for family in families() for preset in family.presets())
    return suggestion(name, (*others, *blocks.FORMATS, *encodings))


def as_encoding(format: Format) -> Encoding | None:
    """The format where it is one of payloads; None for a block format."""
    return None if isinstance(format, BlockFormat) else format


def part(family: str, name: str) -> ModuleType:
    """A module of a family, by its name in the package ("stages.engine"); imported on first use."""
    return importlib.import_module(f"gguflow.{family}.{name}")


def parts(name: str) -> list[ModuleType]:
    """The modules of this name of all families."""
    return [part(family.name, name) for family in families()]
