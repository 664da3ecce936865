"""What a model card says of a model, and where it says nothing, the model's name: the fields of `general.*`
but those for sampling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gguflow.models.general_fields import Fields
from gguflow.models.naming import ModelName, title

_TEXTS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "description": ("description", "model_description"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "size_label": ("size_label", "model_size_label"),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
    "license": ("license",),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
}
"""Fields, each with the keys of the card that may give it; the first that is not null does."""

_LISTS: Mapping[str, tuple[str, ...]] = {
    "tags": ("tags", "pipeline_tag"),
    "languages": ("languages", "language"),
}
"""Fields, each with the keys of the card whose texts it holds, one list after the other."""

_ORIGINS: Mapping[str, tuple[str, ...]] = {
    "base_models": ("base_model", "base_models", "base_model_sources"),
    "datasets": ("datasets", "dataset", "dataset_sources"),
}
"""Fields, each with the keys of the card that may give it; the first that is there does."""

_HUB = "https://huggingface.co/"
_HUB_PAGE = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")


def describe(card: Mapping[str, Any], config_name: str | None, directory_name: str, n_weights: int) -> Fields:
    """The fields that a card, the name in config.json and the name of the directory give: the card before the
    others, and config.json's name, unless it is a path, before the directory's.

    card: what `card.read_card` gives.
    config_name: `_name_or_path` of config.json, None if there is none.
    directory_name: the last part of its path.
    n_weights: of the model, by which sizes in names are judged; 0 if unknown.
    """
    fields = _from_card(card, n_weights)
    names = [] if config_name is None or config_name.count("/") > 1 else [config_name]
    for name in (ModelName.parse(text, n_weights) for text in (*names, directory_name)):
        for field, text in {
            "name": title(name.full),
            "organization": None if name.organization is None else title(name.organization),
            "basename": name.basename,
            "finetune": name.finetune,
            "version": name.version,
            "size_label": name.size_label,
        }.items():
            if text is not None:
                fields.setdefault(field, text)
    return fields


def _from_card(card: Mapping[str, Any], n_weights: int) -> Fields:
    fields: Fields = {}
    for field, keys in _TEXTS.items():
        for value in (card[key] for key in keys if card.get(key) is not None):
            fields.setdefault(field, ",".join(value) if isinstance(value, list) else value)
    for field, keys in _LISTS.items():
        if lists := [_listed(card[key]) for key in keys if card.get(key) is not None]:
            fields[field] = [text for texts in lists for text in texts]
    for field, keys in _ORIGINS.items():
        for key in filter(card.__contains__, keys):
            fields[field] = [_origin(origin, n_weights) for origin in _listed(card[key])]
            break
    return fields


def _listed(value: Any) -> list[Any]:
    """A list, also of a single text; empty for null."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _origin(said: str | dict[str, str], n_weights: int) -> dict[str, str]:
    """What is known of a model or dataset, by its id on the hub, its URL, or its description in the card.

    n_weights: of the model at hand, to which the other is taken to be similar.
    """
    if isinstance(said, dict):
        return said
    is_url = said.startswith(("http://", "https://", "ssh://"))
    page = _HUB_PAGE.fullmatch(said)
    if is_url and page is None:
        return {"repo_url": said}
    name = ModelName.parse(said if page is None else page[1], n_weights)
    origin = {"name": title(name.full)}
    if name.organization is not None:
        origin["organization"] = title(name.organization)
        origin["repo_url"] = f"{_HUB}{name.organization}/{name.full}"
    if name.version is not None:
        origin["version"] = name.version
    return {**origin, "repo_url": said} if is_url else origin
