"""What an installed transformers makes of configurations, as JSON on stdout (run by the peer's Python, which
needs no torch, with the repository in PYTHONPATH).
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

FULL = "full_attention"


def main() -> None:
    import transformers
    from transformers import CONFIG_MAPPING

    from testing.config_layouts import ROPE, rope_config

    model_types = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "bert")
    json.dump(
        {
            "version": transformers.__version__,
            "defaults": {
                name: {k: v for k, v in plain(CONFIG_MAPPING[name]().to_dict()).items() if is_scalar(v)}
                for name in model_types
            },
            "rope": {
                case: rope_of(CONFIG_MAPPING[model_type], rope_config(model_type, keys))
                for case, (model_type, keys) in ROPE.items()
            },
        },
        sys.stdout,
    )


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The base of transformers 5 under its older name, so that both versions have the same keys."""
    rope = values.pop("rope_parameters", None) or {}
    return values | ({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {})


def is_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


def rope_of(config_class: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The parameters of layers with full attention."""
    try:
        config = config_class.from_dict(copy.deepcopy(values))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if hasattr(config, "rope_theta"):  # transformers 4
        found = {**(getattr(config, "rope_scaling", None) or {}), "rope_theta": config.rope_theta}
    else:
        found = config.rope_parameters
        found = (
            found[FULL] if FULL in (getattr(config, "layer_types", None) or ()) and FULL in found else found
        )
    found = {key: value for key, value in found.items() if value is not None}
    kind = found.pop("type", "default")
    return {"rope_type": kind, **found}


if __name__ == "__main__":
    main()
