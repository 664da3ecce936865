"""Small configurations of every class: sizes that make each permutation of rows visible (numbers of heads, of
key-value heads, widths, experts and tokens all differ), and what single classes need beside.
"""

from __future__ import annotations

from typing import Any

from testing.golden import tokenizers

N_LAYERS = 4
HIDDEN = 96
N_HEADS = 6
N_KV_HEADS = 2
HEAD_DIM = 24
VOCABULARY = 331

SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), HIDDEN),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff"), 160),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers"), N_LAYERS
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), N_HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_kv_heads"), N_KV_HEADS),
    **dict.fromkeys(("head_dim", "attn_head_dim", "d_kv"), HEAD_DIM),
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 3),
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 56,
    "shared_intermediate_size": 72,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 512),
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 20,
    "qk_head_dim": 24,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 20,
    "vocab_size_per_layer_input": 300,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "mamba_d_ssm": 144,
    "mamba_n_heads": 6,
    "mamba_d_head": 24,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "state_size": 16,
    "ssm_state_size": 16,
    "mamba_head_dim": 24,
    "mamba_num_heads": 6,
    "n_groups": 2,
    "time_step_rank": 8,
    "num_global_key_value_heads": 1,
    "global_head_dim": 32,
    "sliding_window": 128,
    "original_max_position_embeddings": 256,
}
"""Of a text model, by the names that configurations give them; None in a default stays None."""

TOWER_SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "depth", "encoder_layers", "decoder_layers", "num_layers"), 1),
    **dict.fromkeys(
        ("num_attention_heads", "num_heads", "encoder_attention_heads", "num_key_value_heads"), 2
    ),
    "head_dim": 16,
    "out_hidden_size": HIDDEN,
}
"""Of towers that the text converter leaves out."""

TOWERS = ("vision", "audio", "talker", "code2wav", "token2wav", "speech", "encoder_config")

Settings = dict[str, Any]


def configuration(default: Settings, special: Settings, tokenizer: Settings) -> Settings:
    """Arguments of a configuration class.

    default: what it gives without arguments.
    special: `overrides` of the class.
    tokenizer: of the recipe.
    """
    ids = tokenizers.ids(tokenizer["kind"], *([tokenizer["order"]] if "order" in tokenizer else []))
    n_layers = special.get("layers", N_LAYERS)
    small = _shrunk(default, {**SIZES, **ids}, n_layers, special.get("drop", ()))
    for key in ("model_type", "transformers_version", "architectures", "dtype", "torch_dtype"):
        small.pop(key, None)
    return _laid_over(small, special.get("config", {}))


def _shrunk(default: Settings, sizes: dict[str, int], n_layers: int, drop: tuple[str, ...]) -> Settings:
    small: Settings = {}
    for key, value in default.items():
        if key in drop:
            continue
        if isinstance(value, dict) and key.endswith("_config"):
            tower = key.startswith(TOWERS)
            small[key] = _shrunk(value, TOWER_SIZES if tower else sizes, 1 if tower else n_layers, drop)
        elif key in sizes and value is not None and not isinstance(value, list):
            size = sizes[key]
            small[key] = (
                n_layers if size == N_LAYERS and "layer" in key and sizes is not TOWER_SIZES else size
            )
        elif key.endswith(("layer_types", "layers_block_type")) and isinstance(value, list) and value:
            small[key] = (value * n_layers)[:n_layers]
        else:
            small[key] = value
    return small


def _laid_over(base: Settings, changes: Settings) -> Settings:
    """Dictionaries of configurations are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key.endswith("_config")
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def overrides(name: str) -> Settings:
    """What a class needs beside the general sizes: "like" (another class that it equals), "config"
    (arguments, laid over), "layers" (their number), "drop" (defaults to leave out), "saved" (keys of
    config.json that the class does not write), "tokenizer", "files", "options".

    name: of the class.
    """
    return SPECIAL.get(name, {})


def tokenizer_of(name: str) -> Settings:
    """The tokenizer that models of a class have.

    name: of the class.
    """
    special = overrides(name)
    if "tokenizer" in special:
        return dict(special["tokenizer"])
    for kinds, tokenizer in TOKENIZERS:
        if name.startswith(kinds):
            return dict(tokenizer)
    return {"kind": "bpe"}


TOKENIZERS: tuple[tuple[tuple[str, ...], Settings], ...] = (
    (("Gemma4",), {"kind": "llama-hf", "order": "gemma"}),
    (("Gemma",), {"kind": "spm", "order": "gemma"}),
    (("Bert", "DistilBert", "NomicBert", "NeoBERT", "JinaBert"), {"kind": "wordpiece"}),
    (("XLMRoberta", "Camembert"), {"kind": "unigram"}),
    (("T5", "MT5", "UMT5"), {"kind": "t5"}),
    (("Qwen", "Seed", "Dots"), {"kind": "bpe", "split": "qwen2"}),
    (("GPT2", "GPTNeoX", "Phi", "Bloom", "Falcon", "MPT", "Starcoder"), {"kind": "bpe", "split": "gpt2"}),
    (
        ("Mistral", "Mixtral", "LlamaModel", "Nemotron", "MiniCPM", "InternLM", "Baichuan", "BaiChuan"),
        {"kind": "spm"},
    ),
    (("Orion", "Ernie", "Arctic", "Jamba", "Pangu", "BitNet", "Bitnet"), {"kind": "spm"}),
    (("LlamaForCausalLM",), {"kind": "bpe", "bos": True}),
)
"""Beginnings of class names -> tokenizer; byte-level BPE for all others."""

SPECIAL: dict[str, Settings] = {
    "LLaMAForCausalLM": {"like": "LlamaForCausalLM", "tokenizer": {"kind": "spm"}},
}
"""By class, see `overrides`."""
