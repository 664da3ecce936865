"""Checkpoints that are quantized already: one module for each method, found by listing.

A method has `is_meant(tensors)`, whether a checkpoint has tensors of it, and `grouped(tensors)`, the tensors
of the checkpoint with each of its own as one tensor.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType

from gguflow.sources.base import SourceTensor


@functools.cache
def _methods() -> tuple[ModuleType, ...]:
    return tuple(
        importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)
    )


def grouped(tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint, with those that a method stores in parts joined into one each.

    tensors: the tensors by name, as they are in the files.

    Raises a FileError with the broken rule, or StorageError.
    """
    found = dict(tensors)
    for method in _methods():
        if method.is_meant(found):
            found = method.grouped(found)
    return found
