"""Print what transformers' configuration classes say where config.json says nothing, as JSON.

Run by a Python that has transformers. Arguments: names of "model_type". Keys that every configuration has,
ids of tokens and nulls are left out. A value that follows another key is written as "=num_attention_heads" or
"=head_dim" (hidden_size / num_attention_heads) where it is one of these, and is left out otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from typing import Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
logging.disable(logging.CRITICAL)
warnings.filterwarnings("ignore")

import transformers  # noqa: E402
from transformers import CONFIG_MAPPING, PretrainedConfig  # noqa: E402

COMMON = set(PretrainedConfig().to_dict()) - {"tie_word_embeddings", "is_causal"}
CHANGES: tuple[tuple[str, int], ...] = (
    ("num_attention_heads", 2),
    ("hidden_size", 2),
    ("intermediate_size", 2),
    ("num_hidden_layers", 2),
)


def plain(values: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in values.items():
        if key in COMMON or value is None or key.endswith(("_token_id", "_token_ids", "token_index")):
            continue
        if isinstance(value, dict) and key.endswith("_config"):
            if key in ("text_config", "llm_config", "thinker_config"):
                kept[key] = plain(value)
            continue
        if isinstance(value, (bool, int, float, str, list, dict)):
            kept[key] = value
    return kept


def followed(cls: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values, with those that follow others marked or left out."""
    changed: set[str] = set()
    for key, factor in CHANGES:
        if isinstance(values.get(key), int):
            try:
                other = plain(cls(**{key: values[key] * factor}).to_dict())
            except Exception:
                continue
            changed |= {k for k in values if k != key and other.get(k) != values[k]}
    found = {}
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    for key, value in values.items():
        if key not in changed:
            found[key] = value
        elif key == "num_key_value_heads" and value == heads:
            found[key] = "=num_attention_heads"
        elif key == "head_dim" and heads and hidden and value == hidden // heads:
            found[key] = "=head_dim"
    return found


def main() -> None:
    found: dict[str, Any] = {}
    for model_type in sys.argv[1:]:
        try:
            cls = CONFIG_MAPPING[model_type]
        except KeyError:
            continue
        try:
            values = plain(cls().to_dict())
        except Exception as error:
            print(f"{model_type}: {error}", file=sys.stderr)
            continue
        nested = {key: value for key, value in values.items() if key.endswith("_config")}
        own = {key: value for key, value in values.items() if key not in nested}
        found[model_type] = followed(cls, own) | nested
    print(json.dumps({"version": transformers.__version__, "defaults": found}))


if __name__ == "__main__":
    main()
