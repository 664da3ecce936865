"""Checkpoints of several kinds of input: the names of the text model inside, and what is left out."""

from __future__ import annotations

from gguflow.models.documents import Document

OTHER_INPUTS = (
    r"(model\.)?(vision_tower|vision_model|visual|vision_encoder|audio_tower|image_newline)(\..*)?",
    r"(model\.)?(multi_modal_projector|mm_projector)\..*",
)
"""Encoders of images and sounds, and their projectors: regular expressions for names."""


def text_name(name: str, config: Document) -> str:
    """A tensor's name without "language_model.", wherever a model keeps its text model.

    name: in the checkpoint.
    config: config.json, which does not matter.
    """
    return name.replace("language_model.", "", 1)
