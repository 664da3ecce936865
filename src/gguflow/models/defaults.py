"""What transformers' configuration classes say where config.json leaves a key out.

A config.json need not have all keys: transformers completes it by the class that "model_type" names. The
values here are those of transformers 4.57.6 and 5.24.0, which agree on them; `tools/make_defaults --check`
holds the table to an installed transformers. Keys whose default is null, or is computed from others (the
number of key heads of Llama), are not in it: code says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSIONS = ("4.57.6", "5.24.0")
"""Of transformers."""

_LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
_MISTRAL = _LLAMA | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
_QWEN2 = _LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}

BY_MODEL_TYPE: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "mixtral": _MISTRAL
    | {"rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": _QWEN2,
    "qwen3": _QWEN2 | {"head_dim": 128},
    "qwen3_moe": _QWEN2
    | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "num_local_experts": 128,
        "num_experts_per_tok": 8,
    },
    "bert": {
        "vocab_size": 30522,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
}
"""The defaults by "model_type". Qwen3-MoE's number of experts has the name that transformers 5 gives it;
before, it was num_experts.
"""

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "LlamaModel": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2Model": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3Model": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "BertForSequenceClassification": "bert",
}
"""The model type of each class, for files that name none, or one that transformers does not know."""


def defaults_of(model_type: object, class_name: str) -> Mapping[str, Any]:
    """The defaults of a model's configuration; none for an unknown one.

    model_type: what config.json says.
    class_name: the class of the model.
    """
    known = model_type if isinstance(model_type, str) and model_type in BY_MODEL_TYPE else None
    return BY_MODEL_TYPE.get(known or MODEL_TYPES.get(class_name, ""), {})
