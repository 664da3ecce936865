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
    "laurel_rank": 64,
    "mamba_d_ssm": 192,
    "mamba_n_heads": 6,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "state_size": 16,
    "ssm_state_size": 16,
    "mamba_head_dim": 32,
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
    return laid_over(small, special.get("config", {}))


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


def laid_over(base: Settings, changes: Settings) -> Settings:
    """Dictionaries of configurations are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key.endswith("_config")
        merged[key] = laid_over(merged[key], value) if both else value
    return merged


def overrides(name: str) -> Settings:
    """What a class needs beside the general sizes: "like" (another class that it equals), "config"
    (arguments, laid over), "layers" (their number), "start" (arguments without which there are no defaults),
    "drop" (defaults to leave out), "saved" (keys of
    config.json that the class does not write), "raw" (config.json has all keys, since transformers does not
    know the "model_type" that is "saved"), "wrap" (what is around a configuration that becomes text_config),
    "rename" (patterns and replacements for names of tensors), "extra" (further tensors: name, shape),
    "mtp" (beginning of names: a copy of the last layer is the block for the next token), "tokenizer",
    "files", "options". CLASS+run is laid over CLASS.

    name: of the class.
    """
    base, _, variant = name.partition("+")
    if variant == "run" and base in RUNNING:
        special = SPECIAL.get(base, {})
        return {**special, **{key: laid_over(special.get(key, {}), x) for key, x in RUNNING[base].items()}}
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

_LABELS = {"id2label": {0: "no", 1: "yes", 2: "both"}, "label2id": {"no": 0, "yes": 1, "both": 2}}
_CHAMELEON: Settings = {
    "config": {"vocabulary_map": {"<image>": 5, "IMGIMGA": 6}, "num_key_value_heads": N_HEADS}
}
_MLA = {"num_key_value_heads": N_HEADS}
_BITNET: Settings = {
    "config": {"tie_word_embeddings": True},
    "rename": [
        (r"self_attn\.attn_sub_norm", "self_attn.inner_attn_ln"),
        (r"mlp\.ffn_sub_norm", "mlp.ffn_layernorm"),
    ],
}
"""With the names of bitnet_b1_58, the only ones that the peer knows."""
_QWEN4: Settings = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 2, 2],
    },
    "eos_token_id": 298,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 8,
    "ple_layer_ids": [1, 2],
    "ple_embed_dim": 32,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 2,
}
_DOTS3: Settings = {
    **_MLA,
    "head_dim": 24,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "layer_types": ["indexed_attention", "indexed_attention", "sliding_attention", "indexed_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "per_layer_config": {
        "2": {"num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 24, "qk_nope_head_dim": 12}
        | {"head_dim": 20}
    },
}
_MTP: Settings = {
    "mtp": "mtp.layers.0.",
    "extra": [
        ("mtp.fc.weight", [HIDDEN, 2 * HIDDEN]),
        *(
            (f"mtp.{name}.weight", [HIDDEN])
            for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")
        ),
    ],
}
_QWEN35: Settings = {"mtp_num_hidden_layers": 1}
_MROPE = {"rope_type": "default", "mrope_section": [4, 4, 4]}
_EXPERTS = {
    "n_routed_experts": 3,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
_SSM_LAYERS = ["mamba", "mamba", "attention", "mamba"]
_GEMMA3N: Settings = {
    "num_hidden_layers": 10,
    "intermediate_size": [160] * 10,
    "activation_sparsity_pattern": [0.95] * 3 + [0.0] * 7,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 2,
    "num_kv_shared_layers": 5,
}
_GEMMA3N_NAMES = [(r"per_layer_model\.language_model_", "per_layer_model_")]
"""What transformers 4.57.6 makes of a name by mistake."""
_GEMMA4: Settings = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "global_head_dim": 32,
}
_GEMMA4_ASSISTANT: Settings = _GEMMA4 | {"num_kv_shared_layers": 6}
_GEMMA4_SMALL = _GEMMA4 | {"num_kv_shared_layers": 3, "use_double_wide_mlp": True}
_GEMMA4_MOE = _GEMMA4 | {
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 3,
    "top_k_experts": 2,
    "moe_intermediate_size": 40,
    "attention_k_eq_v": True,
}

SPECIAL: dict[str, Settings] = {
    "LLaMAForCausalLM": {"like": "LlamaForCausalLM", "tokenizer": {"kind": "spm"}},
    # sizes that have to agree with each other, or that have no default
    "BitNetForCausalLM": _BITNET,
    "BitnetForCausalLM": {"like": "BitNetForCausalLM", **_BITNET},
    "BertForSequenceClassification+labels": {"config": _LABELS},
    "RobertaForSequenceClassification+labels": {"config": _LABELS},
    "XLMRobertaForSequenceClassification+labels": {"config": _LABELS},
    "DistilBertForSequenceClassification": {"config": _LABELS},
    "ModernBertForMaskedLM": {"config": {"decoder_bias": False}},
    "ModernBertForSequenceClassification": {"config": _LABELS},
    "NeoBERTForSequenceClassification": {"config": _LABELS},
    "Phi3ForCausalLM": {"tokenizer": {"kind": "spm"}, "config": {"pad_token_id": 2}},
    "Phi3ForCausalLM+longrope": {
        "tokenizer": {"kind": "spm"},
        "config": {
            "pad_token_id": 2,
            "original_max_position_embeddings": 256,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.0, 1.0, 1.0, 1.25, 1.25, 1.5, 1.5],
                "long_factor": [1.0, 1.5, 2.0, 4.25, 8.0, 16.0, 31.5, 47.0],
            },
        },
    },
    "Phi3ForCausalLM+phi4": {
        "tokenizer": {"kind": "bpe", "split": "gpt2", "config": {"tokenizer_class": "GPT2Tokenizer"}}
    },
    "PhiMoEForCausalLM": {
        "like": "PhimoeForCausalLM",
        "tokenizer": {"kind": "spm"},
        "saved": {"original_max_position_embeddings": 256},
    },
    "Qwen3NextForCausalLM": _MTP,
    "Qwen3NextForCausalLM+no-mtp": {"options": ["--no-mtp"]},
    "Qwen3_5ForCausalLM": {**_MTP, "config": _QWEN35},
    "Qwen3_5MoeForCausalLM": {**_MTP, "config": _QWEN35},
    "Qwen3_5ForConditionalGeneration": {**_MTP, "config": {"text_config": _QWEN35}},
    "Qwen3_5MoeForConditionalGeneration": {**_MTP, "config": {"text_config": _QWEN35}},
    "GraniteSpeechForConditionalGeneration": {
        "config": {"text_config": {"architectures": ["GraniteForCausalLM"]}}
    },
    "GraniteSpeechPlusForConditionalGeneration": {
        "config": {"text_config": {"architectures": ["GraniteForCausalLM"]}}
    },
    "LagunaForCausalLM": {"config": {"num_attention_heads_per_layer": [6, 6, 4, 6]}},
    "Glm5NextForConditionalGeneration": {"config": {"text_config": {**_MLA, "qk_rope_head_dim": 0}}},
    "BambaForCausalLM": {"config": {"attn_layer_indices": [2]}},
    "ChameleonForConditionalGeneration": _CHAMELEON,
    "ChameleonForCausalLM": {"like": "ChameleonForConditionalGeneration", **_CHAMELEON},
    "DeepseekV2ForCausalLM": {"config": {**_MLA, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}},
    "DeepseekV3ForCausalLM": {"config": _MLA},
    "Dots1ForCausalLM": {"config": _EXPERTS},
    "FalconForCausalLM": {"config": {"new_decoder_architecture": True}, "tokenizer": {"kind": "bpe"}},
    "FalconForCausalLM+7b": {"config": {"num_kv_heads": 1}, "saved": {"num_kv_heads": 1}},
    "FalconH1ForCausalLM": {"config": {"head_dim": HEAD_DIM}, "saved": {"head_dim": HEAD_DIM}},
    "FalconMambaForCausalLM": {"config": {"intermediate_size": 192}},
    "MambaForCausalLM": {"config": {"intermediate_size": 192}},
    "Mamba2ForCausalLM": {"config": {"head_dim": 32}},
    "GPT2LMHeadModel": {"saved": {"n_ctx": 512}},
    "Cohere2ForCausalLM": {"saved": {"rotary_pct": 1.0}},
    "Gemma3ForCausalLM": {"layers": 7},
    "Gemma3ForConditionalGeneration": {"layers": 7},
    "Gemma3TextModel": {"layers": 7},
    "Gemma3nForCausalLM": {
        "config": _GEMMA3N,
        "rename": [*_GEMMA3N_NAMES, (r"^model\.language_model\.", "model.")],
    },
    "Gemma3nForConditionalGeneration": {
        "like": "Gemma3nForCausalLM",
        "config": _GEMMA3N,
        "wrap": {"model_type": "gemma3n"},
        "rename": _GEMMA3N_NAMES,
        "extra": [
            ("model.vision_tower.timm_model.conv_stem.bn.weight", [8]),
            ("model.embed_audio.x", [8, 8]),
        ],
    },
    "Gemma4ForCausalLM": {"config": _GEMMA4_SMALL, "drop": ("per_layer_config",)},
    "Gemma4ForCausalLM+moe": {"config": _GEMMA4_MOE, "drop": ("per_layer_config",)},
    "Gemma4ForConditionalGeneration": {
        "config": {"text_config": _GEMMA4_SMALL},
        "drop": ("per_layer_config",),
    },
    "Gemma4ForConditionalGeneration+moe": {
        "config": {"text_config": _GEMMA4_MOE},
        "drop": ("per_layer_config",),
    },
    "Gemma4UnifiedForConditionalGeneration": {
        "saved": {"text_config": {"moe_intermediate_size": None}},
        "config": {"text_config": _GEMMA4},
        "drop": ("per_layer_config",),
    },
    "Gemma4AssistantForCausalLM": {
        "config": {
            "text_config": {
                **_GEMMA4_ASSISTANT,
                "hidden_size_per_layer_input": 0,
                "vocab_size_per_layer_input": 0,
            },
            "backbone_hidden_size": 112,
            "num_centroids": 8,
        },
        "start": {
            "text_config": {
                "hidden_size_per_layer_input": 0,
                "vocab_size_per_layer_input": 0,
                "num_kv_shared_layers": 30,
            }
        },
        "drop": ("per_layer_config",),
    },
    "Gemma4UnifiedAssistantForCausalLM": {
        "saved": {"text_config": {"moe_intermediate_size": None}},
        "config": {"text_config": _GEMMA4_ASSISTANT, "backbone_hidden_size": 112, "num_centroids": 8},
        "drop": ("per_layer_config",),
    },
    "Qwen4ExpForCausalLM": {"config": _QWEN4},
    "Qwen4ExpForConditionalGeneration": {"config": {"text_config": _QWEN4}},
    "Dots3NoteForCausalLM": {"config": _DOTS3, "drop": ("per_layer_config",)},
    "Dots3NoteTextForCausalLM": {
        "like": "Dots3NoteForCausalLM",
        "config": _DOTS3,
        "drop": ("per_layer_config",),
    },
    "Dots3NoteForConditionalGeneration": {
        "config": {"text_config": _DOTS3, "vision_config": {"adapter_in_dim": 32}},
        "drop": ("per_layer_config",),
    },
    "Glm4MoeLiteForCausalLM": {"config": _MLA},
    "GlmMoeDsaForCausalLM": {"config": _MLA},
    "DeepseekV32ForCausalLM": {
        "config": _MLA,
        "tokenizer": {"kind": "bpe", "bos": True, "config": {"add_bos_token": True}},
    },
    "EuroBertModel": {"config": {"classifier_pooling": "mean"}},
    "KimiVLForConditionalGeneration": {
        "like": "DeepseekV3ForCausalLM",
        "config": _MLA,
        "raw": True,
        "wrap": {"model_type": "kimi_vl"},
        "rename": [(r"^(model|lm_head)", r"language_model.\1")],
        "extra": [
            ("vision_tower.encoder.final_layernorm.weight", [8]),
            ("multi_modal_projector.pre_norm.weight", [8]),
        ],
    },
    "RND1": {
        "like": "Qwen3MoeForCausalLM",
        "raw": True,
        "saved": {"model_type": "rnd1", "mask_token_id": 5},
    },
    "StepVLForConditionalGeneration": {
        "like": "Qwen3ForCausalLM",
        "raw": True,
        "wrap": {"model_type": "step_robotics"},
        "extra": [("vision_model.conv1.weight", [8, 3, 2, 2])],
    },
    "YoutuForCausalLM": {"config": _MLA},
    "GraniteMoeHybridForCausalLM": {
        "config": {"layer_types": _SSM_LAYERS, "position_embedding_type": "rope", "mamba_n_groups": 1}
    },
    "GraniteMoeHybridForCausalLM+dense": {
        "config": {
            "layer_types": ["attention"] * 4,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "position_embedding_type": "rope",
        }
    },
    "HunYuanDenseV1ForCausalLM": {"config": {"head_dim": HEAD_DIM}},
    "HunYuanMoEV1ForCausalLM": {"config": {"head_dim": HEAD_DIM, "moe_topk": 2}},
    "HunYuanVLForConditionalGeneration": {"config": {"text_config": {"head_dim": HEAD_DIM}}},
    "Lfm2MoeForCausalLM": {"config": {"layer_types": ["conv", "conv", "full_attention", "conv"]}},
    "NemotronForCausalLM": {"config": {"num_key_value_heads": N_KV_HEADS}},
    "Qwen3VLForConditionalGeneration": {
        "config": {
            "text_config": {"rope_scaling": _MROPE},
            "vision_config": {"deepstack_visual_indexes": [0]},
        }
    },
    "Qwen3VLMoeForConditionalGeneration": {
        "config": {
            "text_config": {"rope_scaling": _MROPE},
            "vision_config": {"deepstack_visual_indexes": [0]},
        }
    },
    "Qwen3OmniMoeForConditionalGeneration": {
        "config": {"thinker_config": {"text_config": {"rope_scaling": _MROPE}}, "enable_audio_output": False}
    },
    "Qwen2VLForConditionalGeneration": {"config": {"text_config": {"rope_scaling": _MROPE}}},
    "Qwen2_5_VLForConditionalGeneration": {"config": {"text_config": {"rope_scaling": _MROPE}}},
    "T5ForConditionalGeneration": {"config": {"decoder_start_token_id": 0}},
    "T5WithLMHeadModel": {"like": "T5ForConditionalGeneration", "config": {"decoder_start_token_id": 0}},
    "PaddleOCRVLForConditionalGeneration": {"tokenizer": {"kind": "spm"}},
    "MiniCPMV4_6ForConditionalGeneration": {
        "options": ["--no-mtp"],
        "tokenizer": {"kind": "bpe", "split": "qwen2"},
    },
    "MiniMaxM2ForCausalLM": {"saved": {"rotary_dim": 12}},
    "NomicBertModel": {
        "config": {"head_dim": HIDDEN // N_HEADS},
        "saved": {
            "n_positions": 8192,
            "max_trained_positions": 2048,
            "n_embd": HIDDEN,
            "n_head": N_HEADS,
            "n_inner": 160,
            "n_layer": N_LAYERS,
            "layer_norm_epsilon": 1e-12,
            "causal": False,
            "activation_function": "swiglu",
            "rotary_emb_base": 1000,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "prenorm": False,
            **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False),
        },
    },
    # other names of what transformers has
    **{
        name: {"like": like}
        for name, like in (
            ("Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM"),
            ("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"),
            ("LFM2ForCausalLM", "Lfm2ForCausalLM"),
            ("Lfm2BidirectionalModel", "Lfm2Model"),
            ("OLMoForCausalLM", "OlmoForCausalLM"),
            ("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
            ("StableLMEpochForCausalLM", "StableLmForCausalLM"),
            ("LlavaStableLMEpochForCausalLM", "StableLmForCausalLM"),
            ("MiMoV2ForCausalLM", "MiMoV2FlashForCausalLM"),
            ("MiniMaxText01ForCausalLM", "MiniMaxForCausalLM"),
        )
    },
}
"""By class, see `overrides`; CLASS+VARIANT is a further checkpoint of a class."""

_SECTIONS = {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [4, 4, 4]}

_QWEN35_RUN: Settings = {
    "linear_value_head_dim": 16,
    "rope_parameters": {**_SECTIONS, "mrope_section": [2, 2, 2], "partial_rotary_factor": 0.5},
}
_RUNNING: tuple[tuple[tuple[str, ...], Settings], ...] = (
    (("Qwen3NextForCausalLM",), {"config": {"linear_value_head_dim": 16}}),
    (("Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM"), {"config": _QWEN35_RUN}),
    (
        ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
        {"config": {"text_config": _QWEN35_RUN}},
    ),
    (("ExaoneMoeForCausalLM", "MiniMaxM2ForCausalLM"), {"saved": {"scoring_func": "sigmoid"}}),
    (
        ("Lfm2ForCausalLM", "Lfm2Model"),
        {"config": {"layer_types": ["conv", "conv", "full_attention", "conv"]}},
    ),
    (("JambaForCausalLM",), {"config": {"attn_layer_offset": 1, "attn_layer_period": 2}}),
    (("Qwen2VLModel",), {"config": {"text_config": {"rope_scaling": _MROPE}}}),
    (
        ("Qwen3ASRForConditionalGeneration", "PaddleOCRVLForConditionalGeneration"),
        {"config": {"text_config": {"rope_parameters": _SECTIONS}}},
    ),
    (
        ("Cohere2ForCausalLM", "EuroBertModel", "NemotronForCausalLM"),
        {"config": {"head_dim": HIDDEN // N_HEADS}},
    ),
    (("OlmoeForCausalLM",), {"config": {"num_key_value_heads": N_HEADS}}),
    (
        (
            "BertForSequenceClassification",
            "RobertaForSequenceClassification",
            "XLMRobertaForSequenceClassification",
        ),
        {"config": {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
    ),
    (("Ernie4_5_MoeForCausalLM",), {"config": {"moe_k": 2}}),
    (("MellumForCausalLM",), {"config": {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}}),
    (("Gemma3nForCausalLM",), {"config": {"hidden_size_per_layer_input": 256}}),
    (("MiniCPM3ForCausalLM",), {"config": {"v_head_dim": HIDDEN // N_HEADS}}),
)

RUNNING: dict[str, Settings] = {name: settings for names, settings in _RUNNING for name in names}
"""CLASS -> what CLASS+run has otherwise, so that llama.cpp runs it: it takes a few sizes as given, and some
keys as always there, where the converter does not.
"""
