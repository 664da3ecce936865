"""What transformers' configuration classes say where config.json leaves a key out.

A config.json need not have all keys: transformers completes it by the class that "model_type" names, and
llama.cpp's converter reads the completed one. defaults.json beside this file has the values, for each model
type of the version that the converter asks for (4.57.6) where that knows it, else of 5.24.0; it is written by
`tools/make_defaults`. "=num_attention_heads" and "=head_dim" stand for values that follow others. Keys whose
default is null are not in it, nor are ids of tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

VERSIONS = ("4.57.6", "5.24.0")
"""Of transformers, by priority."""


@functools.cache
def _data() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("defaults.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def model_types() -> Mapping[str, Mapping[str, Any]]:
    """The defaults of all model types that are known, as they are written in defaults.json."""
    return {name: entry["values"] for name, entry in _data()["defaults"].items()}


def version_of(model_type: str) -> str | None:
    """The version of transformers from which the defaults of a model type are; None if it is not known.

    model_type: as in config.json.
    """
    entry = _data()["defaults"].get(model_type)
    return None if entry is None else str(entry["version"])


def defaults_of(model_type: object, class_name: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The defaults of a model's configuration; none for an unknown one.

    model_type: what config.json says.
    class_name: the class of the model, for files that name no known model type.
    values: of config.json, from which some defaults follow.
    """
    known = _values_of(model_type, class_name)
    return {key: _resolved(value, known, values) for key, value in known.items()}


def without_followers(model_type: object, class_name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config.json without those that are null and follow others: they count as absent.

    model_type, class_name: as in `defaults_of`.
    values: of config.json.
    """
    known = _values_of(model_type, class_name)
    return {
        key: value
        for key, value in values.items()
        if value is not None or not str(known.get(key)).startswith("=")
    }


def _values_of(model_type: object, class_name: str) -> Mapping[str, Any]:
    """The defaults as they are written in defaults.json, those of a text model laid over them."""
    data = _data()
    if isinstance(model_type, str) and model_type in data["defaults"]:
        known = model_type
    else:
        known = data["classes"].get(class_name, "")
    own: dict[str, Any] = data["defaults"].get(known, {"values": {}})["values"]
    nested = own.get("text_config")
    return own | nested if isinstance(nested, dict) else own


def _resolved(value: Any, defaults: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """A default, or the value that it follows; None where that cannot be."""

    def number(key: str) -> int | None:
        found = values.get(key, defaults.get(key))
        return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None

    if value == "=num_attention_heads":
        return number("num_attention_heads")
    if value == "=head_dim":
        hidden, heads = number("hidden_size"), number("num_attention_heads")
        return None if hidden is None or heads is None else max(hidden // heads, 1)
    return value
