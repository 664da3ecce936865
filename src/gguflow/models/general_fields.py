"""The keys `general.*` that say what a model is called, by whom and of what it is made: which there are, in
which order they are written, and of which type.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from gguflow.container.metadata import Metadata, ValueType, array, f32, i32, string, u32

PREFIX = "general."


class Kind(enum.Enum):
    """What a field holds in Python: str, int, float, list of str, list of dict of str to str."""

    TEXT = enum.auto()
    WHOLE = enum.auto()
    NUMBER = enum.auto()
    TEXTS = enum.auto()
    ORIGINS = enum.auto()


Fields = dict[str, Any]
"""Values by field, of the types that `Kind` says; a field that is absent is not written."""

FIELDS: Mapping[str, Kind] = {
    "sampling.sequence": Kind.TEXT,
    "sampling.top_k": Kind.WHOLE,
    "sampling.top_p": Kind.NUMBER,
    "sampling.min_p": Kind.NUMBER,
    "sampling.xtc_probability": Kind.NUMBER,
    "sampling.xtc_threshold": Kind.NUMBER,
    "sampling.temp": Kind.NUMBER,
    "sampling.penalty_last_n": Kind.WHOLE,
    "sampling.penalty_repeat": Kind.NUMBER,
    "sampling.mirostat": Kind.WHOLE,
    "sampling.mirostat_tau": Kind.NUMBER,
    "sampling.mirostat_eta": Kind.NUMBER,
    "name": Kind.TEXT,
    "author": Kind.TEXT,
    "version": Kind.TEXT,
    "organization": Kind.TEXT,
    "finetune": Kind.TEXT,
    "basename": Kind.TEXT,
    "description": Kind.TEXT,
    "quantized_by": Kind.TEXT,
    "size_label": Kind.TEXT,
    "license": Kind.TEXT,
    "license.name": Kind.TEXT,
    "license.link": Kind.TEXT,
    "url": Kind.TEXT,
    "doi": Kind.TEXT,
    "uuid": Kind.TEXT,
    "repo_url": Kind.TEXT,
    "source.url": Kind.TEXT,
    "source.doi": Kind.TEXT,
    "source.uuid": Kind.TEXT,
    "source.repo_url": Kind.TEXT,
    "base_models": Kind.ORIGINS,
    "datasets": Kind.ORIGINS,
    "tags": Kind.TEXTS,
    "languages": Kind.TEXTS,
}
"""Fields in the order in which llama.cpp writes them. The key of a field is `general.` and its name; those of
ORIGINS become several keys, `general.base_model.count`, `general.base_model.0.name` and so on.
"""

ORIGIN = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
"""What may be said of each model or dataset that a model was made from, in the order of the file."""


def to_metadata(fields: Fields) -> Metadata:
    """The keys of fields in the order of the file. Empty texts and lists are not written, as in llama.cpp;
    numbers are rounded to float32.
    """
    written: Metadata = {}
    for name, kind in FIELDS.items():
        value = fields.get(name)
        key = PREFIX + name
        if value is None:
            continue
        if kind is Kind.ORIGINS:
            written |= _origins(key.removesuffix("s"), value)
        elif kind is Kind.WHOLE:
            written[key] = i32(value)
        elif kind is Kind.NUMBER:
            written[key] = f32(value)
        elif value:
            written[key] = string(value) if kind is Kind.TEXT else array(ValueType.STRING, value)
    return written


def is_field(key: str) -> bool:
    """Whether a key of a GGUF file is one that `to_metadata` may write."""
    name = key.removeprefix(PREFIX)
    return key.startswith(PREFIX) and (name in FIELDS or name.startswith(("base_model.", "dataset.")))


def _origins(prefix: str, origins: Sequence[Mapping[str, str]]) -> Metadata:
    written: Metadata = {f"{prefix}.count": u32(len(origins))}
    for i, origin in enumerate(origins):
        written |= {f"{prefix}.{i}.{key}": string(text) for key in ORIGIN if (text := origin.get(key))}
    return written
