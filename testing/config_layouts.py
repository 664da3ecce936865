"""config.json in the layouts that checkpoints have it in, for tests and for the tool that records what
transformers makes of them (tools/make_defaults).
"""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 24,
}
"""The keys that all cases share."""

YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PLAIN: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6}
FULL_ONLY = {"layer_types": ["full_attention"] * 2}

ROPE: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("llama", {}),
    "nothing: another class's default": ("mixtral", {}),
    "v4: base": ("llama", {"rope_theta": 5e5}),
    "v4: base and null": ("llama", {"rope_theta": 1e6, "rope_scaling": None}),
    "v4: base that is an integer": ("llama", {"rope_theta": 1000000}),
    "v4: linear, by its old name": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "v4: linear": ("llama", {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "v4: dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "v4: both names of the type": (
        "llama",
        {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}},
    ),
    "v4: yarn": ("qwen2", {"rope_theta": 1e6, "rope_scaling": YARN}),
    "v4: yarn by its old name": (
        "qwen2",
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    ),
    "v4: yarn, all parameters": (
        "qwen3",
        {"rope_scaling": {**YARN, "attention_factor": 0.75, "beta_fast": 16.0, "beta_slow": 2.0}},
    ),
    "v4: llama3": ("llama", {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
    "v4: the base within the scaling": ("qwen3", {"rope_scaling": {**YARN, "rope_theta": 1e6}}),
    "v4: an empty scaling": ("qwen3", {"rope_theta": 1e6, "rope_scaling": {}}),
    "v4: a scaling of the type alone": (
        "qwen3",
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default"}},
    ),
    "v4: original length beside": (
        "qwen2",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 16},
    ),
    "v5: default": ("qwen3", {"rope_parameters": PLAIN}),
    "v5: the base alone": ("qwen3", {"rope_parameters": {"rope_theta": 1e6}}),
    "v5: yarn": ("qwen3", {"rope_parameters": {**YARN, "rope_theta": 1e6}}),
    "v5: yarn without a base": ("qwen3", {"rope_parameters": YARN}),
    "v5: yarn with the base beside": ("qwen3", {"rope_theta": 1e6, "rope_parameters": YARN}),
    "v5: llama3": ("llama", {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}),
    "v5: linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}}),
    "v5: empty": ("qwen3", {"rope_theta": 1e6, "rope_parameters": {}}),
    "v5: null": ("qwen3", {"rope_theta": 1e6, "rope_parameters": None}),
    "v5: a base that is null": ("qwen3", {"rope_theta": 1e6, "rope_parameters": {"rope_type": "default"}}),
    "v5: for all of the head": ("llama", {"rope_parameters": {**PLAIN, "partial_rotary_factor": 1.0}}),
    "by layer type": ("qwen3", {**FULL_ONLY, "rope_parameters": {"full_attention": PLAIN}}),
    "by layer type: yarn": (
        "qwen3",
        {**FULL_ONLY, "rope_parameters": {"full_attention": {**YARN, "rope_theta": 1e6}}},
    ),
    "by layer type: base beside": (
        "qwen3",
        {**FULL_ONLY, "rope_theta": 1e6, "rope_parameters": {"full_attention": YARN}},
    ),
    "by layer type: in the scaling": (
        "qwen3",
        {**FULL_ONLY, "rope_theta": 1e6, "rope_scaling": {"full_attention": YARN}},
    ),
    "by layer type: two that are equal": (
        "qwen3",
        {
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 8,
            "use_sliding_window": True,
            "rope_parameters": {"full_attention": PLAIN, "sliding_attention": PLAIN},
        },
    ),
    "by layer type: one unused": (
        "qwen3",
        {
            **FULL_ONLY,
            "rope_parameters": {"full_attention": PLAIN, "sliding_attention": {"rope_theta": 1e4}},
        },
    ),
    "by layer type: one null": (
        "qwen3",
        {**FULL_ONLY, "rope_parameters": {"full_attention": PLAIN, "sliding_attention": None}},
    ),
    "by layer type: a base in between": (
        "qwen3",
        {**FULL_ONLY, "rope_parameters": {"full_attention": PLAIN, "rope_theta": 7.0}},
    ),
    "by layer type: not declared": ("qwen2", {"rope_parameters": {"full_attention": PLAIN}}),
    "by layer type: llama": (
        "llama",
        {"rope_parameters": {"full_attention": {**LLAMA3, "rope_theta": 5e5}}},
    ),
    "both: yarn added by hand": ("qwen3", {"rope_parameters": PLAIN, "rope_scaling": YARN}),
    "both: an empty one added": ("qwen3", {"rope_parameters": PLAIN, "rope_scaling": {}}),
    "both: null added": ("qwen3", {"rope_parameters": PLAIN, "rope_scaling": None}),
    "both: the same": (
        "qwen3",
        {"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": {**YARN, "rope_theta": 1e6}},
    ),
    "both: the first empty": ("qwen3", {"rope_parameters": {}, "rope_theta": 1e6, "rope_scaling": YARN}),
    "both: two scalings": (
        "qwen3",
        {"rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "both: the base of all": ("qwen3", {"rope_theta": 1e6, "rope_parameters": PLAIN, "rope_scaling": YARN}),
    "both: by layer type": (
        "qwen3",
        {**FULL_ONLY, "rope_parameters": {"full_attention": PLAIN}, "rope_scaling": YARN},
    ),
}
"""Layouts of rotary embeddings: the model type, and the keys beside `BASE`."""


def rope_config(model_type: str, keys: dict[str, Any]) -> dict[str, Any]:
    """A whole config.json, without its class.

    model_type: of the model.
    keys: of a case.
    """
    return {**BASE, "model_type": model_type, **keys}
