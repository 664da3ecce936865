"""Models of texts and of images or sound: which tensors are the text model's, and which are left out."""

from __future__ import annotations

from collections.abc import Callable

from gguflow.models.documents import Document

TEXT_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.", ""),
    ("thinker.", ""),
)
"""What names of the text model begin with inside a larger one, and in a model of its own."""


def text_names(*prefixes: tuple[str, str]) -> Callable[[str, Document], str]:
    """A `rename` for models of several kinds of input.

    prefixes: further ones, which come first: what names begin with, and what stands in its place.
    """

    def rename(name: str, config: Document) -> str:
        for before, after in (*prefixes, *TEXT_PREFIXES):
            if name.startswith(before):
                return after + name.removeprefix(before)
        return name

    return rename


def towers(*names: str) -> tuple[str, ...]:
    """Regular expressions for tensors of parts that are no text model, after `rename`.

    names: of the parts, in the model or beside it.
    """
    return tuple(rf"(model\.)?{name}\..*" for name in names)
