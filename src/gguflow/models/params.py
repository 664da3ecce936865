"""params.json, the configuration of a checkpoint in Mistral's own form, as families read a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguflow.models.documents import Document

DENSE, SCALED, LATENT = (f"MistralFormat{kind}ForCausalLM" for kind in ("", "Scaled", "Latent"))
"""What stands for a class in config.json, which params.json does not name."""

DEFAULT_CONTEXT = 128_000
"""Of models whose params.json does not say it, as in Mistral's own programs."""

_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
_EXPERTS = {
    "first_k_dense_replace": "first_k_dense_replace",
    "num_experts_per_tok": "num_experts_per_tok",
    "num_experts": "n_routed_experts",
    "expert_hidden_dim": "moe_intermediate_size",
    "routed_scale": "routed_scaling_factor",
    "num_shared_experts": "n_shared_experts",
    "num_expert_groups": "n_group",
    "num_expert_groups_per_tok": "topk_group",
}
"""Keys of params.json, and of its object "moe", under the names that transformers has for them."""


def params_configuration(file: Path, values: Mapping[str, Any]) -> Document:
    """params.json as families read a configuration.

    file: params.json, for messages.
    values: its content.

    Raises InvalidError (M-002, M-003).
    """
    params = Document(file, values)
    for key in ("dim", "n_layers", "n_heads", "hidden_dim", "vocab_size"):
        params.integer(key)
    params.number("norm_eps")
    said: dict[str, Any] = {}
    context = params.first(("max_position_embeddings", "max_seq_len"))
    if context != "max_position_embeddings":
        said["max_position_embeddings"] = params.integer(context) if context else DEFAULT_CONTEXT
    if "tied_embeddings" in params:
        said["tie_word_embeddings"] = params.flag("tied_embeddings")
    moe = params.section("moe").values
    if "kv_lora_rank" in params:
        said |= {new: values[old] for old, new in _NAMES.items() if old in params}
        said |= {_EXPERTS[key]: value for key, value in moe.items() if key in _EXPERTS}
        said |= {"norm_topk_prob": True, "scoring_func": "softmax"}
    elif moe:
        said |= {
            "num_local_experts": params.section("moe").integer("num_experts"),
            "num_experts_per_tok": params.section("moe").integer("num_experts_per_tok"),
        }
    is_scaled = "llama_4_scaling" in params
    name = LATENT if "kv_lora_rank" in params else SCALED if is_scaled else DENSE
    found = replace(params, values={**values, **said, "architectures": [name]})
    if name != LATENT and context != "max_position_embeddings":
        found.applied.add("context-of-params")
    return found
