"""Tensors that are left out of a conversion, as the user asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gguflow.arguments import shown, texts
from gguflow.errors import UsageError, listed
from gguflow.name_patterns import NamePattern
from gguflow.sources.base import Checkpoint


def without(checkpoint: Checkpoint, patterns: Sequence[str]) -> Checkpoint:
    """The checkpoint without the tensors that have one of the patterns anywhere in their name.

    checkpoint: with all its tensors, under their names in the source.
    patterns: regular expressions (`NamePattern`).

    Raises UsageError if one is not a regular expression, or matches no tensor.
    """
    skipped: set[str] = set()
    for text in texts(patterns, "skip_tensors"):
        try:
            pattern = NamePattern(text)
        except UsageError as error:
            raise UsageError(f"--skip-tensor: {error}") from None
        found = {name for name in checkpoint.tensors if pattern.search(name)}
        if not found:
            some = listed(list(checkpoint.tensors), 3)
            raise UsageError(
                f"--skip-tensor: {shown(text)} matches no tensor; use the names in the source: {some}"
            )
        skipped |= found
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in skipped}
    return replace(checkpoint, tensors=kept)
