"""config.json as a family reads it: the text model's part of it, completed by transformers' defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguflow.models.architecture import class_name
from gguflow.models.defaults import defaults_of, without_followers
from gguflow.models.documents import Document

TEXT_PARTS = (
    ("text_config",),
    ("llm_config",),
    ("lm_config",),
    ("language_config",),
    ("thinker_config", "text_config"),
)
"""Where models of several kinds of input keep the configuration of their text model."""

TIED = "tie_word_embeddings"

ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta")
"""Belong together: they are taken from one place."""


def text_configuration(file: Path, values: Mapping[str, Any]) -> Document:
    """The configuration of the text model, with the defaults of its class.

    A nested configuration of the text model is laid over the whole, whose other keys stay visible.

    file: config.json, for messages.
    values: its content.

    Raises InvalidError (M-003) if a nested configuration is not an object, or `architectures` is wrong
    (M-002, M-003).
    """
    config = _with_text_part(Document(file, values))
    model_type, name = config.values.get("model_type"), class_name(config)
    config = replace(config, values=without_followers(model_type, name, config.values))
    return replace(config, defaults=defaults_of(model_type, name, config.values))


def _with_text_part(root: Document) -> Document:
    for path in TEXT_PARTS:
        part = root
        for name in path:
            part = part.section(name)
        if not part.values:
            continue
        said = {key: value for key, value in part.values.items() if value is not None}
        if path != TEXT_PARTS[0]:
            said.pop("architectures", None)  # llama.cpp follows the class of the whole in other layouts
        if root.values.get(TIED) is True:
            said.pop(TIED, None)  # transformers ties the whole model by the key at the root
        shadowed = set(ROPE_KEYS) if not said.keys().isdisjoint(ROPE_KEYS) else set()
        kept = {key: value for key, value in root.values.items() if key not in shadowed}
        return replace(root, values=kept | said, places=dict.fromkeys(said, part.where))
    return root
