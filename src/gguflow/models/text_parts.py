"""Checkpoints of several kinds of input: the names of the text model inside, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Callable

from gguflow.models.documents import Document

OTHER_INPUTS = (
    r"(model\.)?(vision_tower|vision_model|visual|vision_encoder|audio_tower|image_newline)(\..*)?",
    r"(model\.)?(multi_modal_projector|mm_projector)\..*",
)
"""Encoders of images and sounds, and their projectors: regular expressions for names."""


_PARTS = re.compile(
    r"(.*[._])?(vision|visual|vpm|video|image|audio|speech|sound|talker|vit|siglip2?|sam|conformer|token2wav"
    r"|code2wav|projector|aligner|resampler)([._0-9].*)?"
)


def is_of_other_inputs(name: str) -> bool:
    """Whether a tensor belongs to what sees, hears or speaks, by its name.

    name: in the checkpoint.
    """
    return _PARTS.fullmatch(name) is not None


def text_name(name: str, config: Document) -> str:
    """A tensor's name without "language_model.", wherever a model keeps its text model.

    name: in the checkpoint.
    config: config.json, which does not matter.
    """
    return name.replace("language_model.", "", 1)


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
