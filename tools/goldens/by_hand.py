"""Recipes of classes that transformers does not have: configurations and names of tensors as their published
checkpoints have them.

Shapes are written with letters: H the width of the model, Q and K the rows of queries and of keys, D of one
head, F and M the widths of feed-forward layers and of experts, V the vocabulary, N the heads, G the key-value
heads, E the experts; 2F is twice F.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from goldens.shrinking import HIDDEN, N_HEADS, N_KV_HEADS, N_LAYERS, VOCABULARY
from testing.golden import tokenizers
from testing.golden.recipes import Recipe, Tensor

HEAD_DIM = HIDDEN // N_HEADS

SIZES = {
    "H": HIDDEN,
    "N": N_HEADS,
    "G": N_KV_HEADS,
    "D": HEAD_DIM,
    "Q": N_HEADS * HEAD_DIM,
    "K": N_KV_HEADS * HEAD_DIM,
    "F": 160,
    "M": 40,
    "V": VOCABULARY,
    "E": 3,
}

CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 160,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_KV_HEADS,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
MOE: dict[str, Any] = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 40}

Shapes = dict[str, str]

ENDS: Shapes = {"model.embed_tokens.weight": "V H", "model.norm.weight": "H", "lm_head.weight": "V H"}
ATTENTION: Shapes = {
    "self_attn.q_proj.weight": "Q H",
    "self_attn.k_proj.weight": "K H",
    "self_attn.v_proj.weight": "K H",
    "self_attn.o_proj.weight": "H Q",
}
QKV_BIAS: Shapes = {f"self_attn.{x}_proj.bias": rows for x, rows in (("q", "Q"), ("k", "K"), ("v", "K"))}
QK_NORM: Shapes = {"self_attn.q_norm.weight": "D", "self_attn.k_norm.weight": "D"}
NORMS: Shapes = {"input_layernorm.weight": "H", "post_attention_layernorm.weight": "H"}


def swiglu(prefix: str = "mlp", width: str = "F") -> Shapes:
    return {
        f"{prefix}.gate_proj.weight": f"{width} H",
        f"{prefix}.up_proj.weight": f"{width} H",
        f"{prefix}.down_proj.weight": f"H {width}",
    }


def experts(prefix: str = "mlp.experts", n: int = 3, width: str = "M") -> Shapes:
    return {name: shape for i in range(n) for name, shape in swiglu(f"{prefix}.{i}", width).items()}


def moe(router: str = "mlp.gate.weight") -> Shapes:
    return {router: "E H", **experts()}


LLAMA: Shapes = {**ATTENTION, **swiglu(), **NORMS}
SPARSE: Shapes = {**ATTENTION, **moe(), **NORMS}


@dataclass(frozen=True)
class Class:
    """A class's checkpoint.

    config: over `CONFIG`; a null removes a key.
    block: the tensors of a block, or a function of its number.
    ends: those outside blocks.
    tokenizer: of the recipe.
    prefix: of the blocks' names.
    n_layers: number of blocks.
    bare: whether config is complete as it is.
    rename: patterns and replacements, for every name.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    block: Shapes | Callable[[int], Shapes] = field(default_factory=lambda: LLAMA)
    ends: Shapes = field(default_factory=lambda: ENDS)
    tokenizer: Mapping[str, Any] = field(default_factory=lambda: {"kind": "bpe"})
    prefix: str = "model.layers.{}."
    n_layers: int = N_LAYERS
    bare: bool = False
    rename: tuple[tuple[str, str], ...] = ()


def recipe(name: str) -> Recipe:
    """The recipe of a class. Raises KeyError if it is not here.

    name: of the class, or CLASS+VARIANT.
    """
    known = CLASSES[name]
    cls = name.partition("+")[0]
    settings = dict(known.tokenizer)
    ids = tokenizers.ids(settings["kind"], *([settings["order"]] if "order" in settings else []))
    config = {**({} if known.bare else CONFIG), **ids, **known.config, "architectures": [cls]}
    config = {key: value for key, value in config.items() if value is not None}
    shapes = dict(known.ends)
    for i in range(known.n_layers):
        block = known.block(i) if callable(known.block) else known.block
        shapes |= {known.prefix.format(i) + tensor: shape for tensor, shape in block.items()}
    tensors = []
    for tensor, shape in shapes.items():
        for pattern, replacement in known.rename:
            tensor = re.sub(pattern, replacement, tensor)
        tensors.append(Tensor(tensor, tuple(_size(word) for word in shape.split())))
    return Recipe(cls, "none", config, settings, tuple(sorted(tensors, key=lambda t: t.name)))


def _size(word: str) -> int:
    number, letters = re.fullmatch(r"(\d*)([A-Z]?)", word).groups()  # type: ignore[union-attr]
    return int(number or 1) * (SIZES[letters] if letters else 1)


def after(first: Shapes, rest: Shapes, n_first: int = 1) -> Callable[[int], Shapes]:
    """The first blocks and the others."""
    return lambda i: first if i < n_first else rest


SPM = {"kind": "spm"}
QWEN = {"kind": "bpe", "split": "qwen2"}
WORDPIECE = {"kind": "wordpiece"}
BIAS: Shapes = {name.replace(".weight", ".bias"): shape.split()[0] for name, shape in LLAMA.items()}
LAYER_NORMS: Shapes = {name.replace("weight", "bias"): "H" for name in NORMS}
GPT: Shapes = {
    "ln_1.weight": "H",
    "ln_1.bias": "H",
    "ln_2.weight": "H",
    "ln_2.bias": "H",
    "attn.c_attn.weight": "160 H",
    "attn.c_attn.bias": "160",
    "attn.c_proj.weight": "H H",
    "attn.c_proj.bias": "H",
    "mlp.c_fc.weight": "4H H",
    "mlp.c_fc.bias": "4H",
    "mlp.c_proj.weight": "H 4H",
    "mlp.c_proj.bias": "H",
}
GPT_ENDS: Shapes = {
    "transformer.wte.weight": "V H",
    "transformer.ln_f.weight": "H",
    "transformer.ln_f.bias": "H",
}
MLA: dict[str, Any] = {
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "num_key_value_heads": N_HEADS,
}
BAILING_V2: Shapes = {
    "attention.query_key_value.weight": "160 H",
    "attention.dense.weight": "H Q",
    "attention.query_layernorm.weight": "D",
    "attention.key_layernorm.weight": "D",
    **NORMS,
}
BAILING_V2_MOE: Shapes = {
    **BAILING_V2,
    **moe(),
    "mlp.gate.expert_bias": "E",
    **swiglu("mlp.shared_experts", "M"),
}
BAILING_V2_CONFIG: dict[str, Any] = {
    **MOE,
    "model_type": "bailing_moe_v2",
    "head_dim": HEAD_DIM,
    "first_k_dense_replace": 1,
    "num_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "score_function": "sigmoid",
    "partial_rotary_factor": 0.5,
}
BAILING_ENDS: Shapes = {
    "model.word_embeddings.weight": "V H",
    "model.norm.weight": "H",
    "lm_head.weight": "V H",
}
EXAONE: Shapes = {
    "attn.attention.q_proj.weight": "Q H",
    "attn.attention.k_proj.weight": "K H",
    "attn.attention.v_proj.weight": "K H",
    "attn.attention.out_proj.weight": "H Q",
    "mlp.c_fc_0.weight": "F H",
    "mlp.c_fc_1.weight": "F H",
    "mlp.c_proj.weight": "H F",
    "ln_1.weight": "H",
    "ln_2.weight": "H",
}
LLADA: Shapes = {
    "q_proj.weight": "Q H",
    "k_proj.weight": "K H",
    "v_proj.weight": "K H",
    "attn_out.weight": "H Q",
    "ff_proj.weight": "F H",
    "up_proj.weight": "F H",
    "ff_out.weight": "H F",
    "attn_norm.weight": "H",
    "ff_norm.weight": "H",
}
LLADA_MOE: dict[str, Any] = {
    **MOE,
    "model_type": "llada",
    "expert_intermediate_size": 40,
    "moe_intermediate_size": None,
    "num_key_value_heads": N_HEADS,
}
LLADA_MOE_BLOCK: Shapes = {
    **ATTENTION,
    "self_attn.k_proj.weight": "Q H",
    "self_attn.v_proj.weight": "Q H",
    **QK_NORM,
    **moe(),
    **NORMS,
}
GROVE = Class(
    {**MOE, "model_type": "grove_moe", "head_dim": HEAD_DIM, "num_experts": 4, "parallel_expert_size": 24}
    | {"experts_per_group": 2, "grovemoe_expert_group_scale": 0.05, "norm_topk_prob": True},
    {
        **ATTENTION,
        **QK_NORM,
        **NORMS,
        "mlp.gate.weight": "4 H",
        **experts(n=4),
        **{name.replace("40", "24"): shape for name, shape in experts("mlp.chunk_experts", 2, "24").items()},
    },
    tokenizer=QWEN,
)
JINA_BERT: Shapes = {
    **{
        f"attention.self.{x}.{kind}": shape
        for x in ("query", "key", "value")
        for kind, shape in (("weight", "H H"), ("bias", "H"))
    },
    "attention.output.dense.weight": "H H",
    "attention.output.dense.bias": "H",
    "attention.output.LayerNorm.weight": "H",
    "attention.output.LayerNorm.bias": "H",
    "mlp.gated_layers.weight": "2F H",
    "mlp.wo.weight": "H F",
    "mlp.wo.bias": "H",
    "mlp.layernorm.weight": "H",
    "mlp.layernorm.bias": "H",
}
JINA = Class(
    {"model_type": "bert", "layer_norm_eps": 1e-12, "type_vocab_size": 2, "position_embedding_type": "alibi"}
    | {"feed_forward_type": "geglu", "hidden_act": "gelu", "num_key_value_heads": None, "rope_theta": None}
    | {"rms_norm_eps": None, "pad_token_id": 0, "emb_pooler": "mean"},
    JINA_BERT,
    {
        "embeddings.word_embeddings.weight": "V H",
        "embeddings.token_type_embeddings.weight": "2 H",
        "embeddings.LayerNorm.weight": "H",
        "embeddings.LayerNorm.bias": "H",
        "pooler.dense.weight": "H H",
        "pooler.dense.bias": "H",
    },
    WORDPIECE,
    "encoder.layer.{}.",
)
NEOBERT_BLOCK: Shapes = {
    "attention_norm.weight": "H",
    "ffn.w12.weight": "212 H",
    "ffn.w3.weight": "H 106",
    "ffn_norm.weight": "H",
    "qkv.weight": "3H H",
    "wo.weight": "H H",
}
NEOBERT_CONFIG: dict[str, Any] = {
    "model_type": "neobert",
    "max_length": 512,
    "norm_eps": 1e-5,
    "embedding_init_range": 0.02,
    "num_key_value_heads": None,
    "max_position_embeddings": None,
    "rope_theta": None,
    "rms_norm_eps": None,
    "hidden_act": None,
    "pad_token_id": 0,
}


def neobert(prefix: str, ends: Shapes, config: Mapping[str, Any] = {}) -> Class:
    own = {f"{prefix}encoder.weight": "V H", f"{prefix}layer_norm.weight": "H"}
    return Class(
        {**NEOBERT_CONFIG, **config},
        NEOBERT_BLOCK,
        {**own, **ends},
        WORDPIECE,
        prefix + "transformer_encoder.{}.",
    )


CHATGLM = Class(
    {
        "model_type": "chatglm",
        "vocab_size": VOCABULARY,
        "padded_vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
    }
    | {
        "ffn_hidden_size": 160,
        "num_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "kv_channels": HEAD_DIM,
    }
    | {
        "multi_query_group_num": N_KV_HEADS,
        "layernorm_epsilon": 1.5625e-7,
        "seq_length": 512,
        "rope_ratio": 500,
    }
    | {"add_qkv_bias": True, "rmsnorm": True},
    {
        "input_layernorm.weight": "H",
        "self_attention.query_key_value.weight": "160 H",
        "self_attention.query_key_value.bias": "160",
        "self_attention.dense.weight": "H Q",
        "post_attention_layernorm.weight": "H",
        "mlp.dense_h_to_4h.weight": "2F H",
        "mlp.dense_4h_to_h.weight": "H F",
    },
    {
        "transformer.embedding.word_embeddings.weight": "V H",
        "transformer.rotary_pos_emb.inv_freq": "8",
        "transformer.encoder.final_layernorm.weight": "H",
        "transformer.output_layer.weight": "V H",
    },
    prefix="transformer.encoder.layers.{}.",
    bare=True,
)
SARVAM = Class(
    {**BAILING_V2_CONFIG, "model_type": "sarvam_moe"},
    after({**BAILING_V2, **swiglu()}, BAILING_V2_MOE),
    BAILING_ENDS,
)


def deci(i: int) -> Shapes:
    """Grouped attention; one matrix instead of it; none; and a block that is left out."""
    wide = {"mlp.gate_proj.weight": "256 H", "mlp.up_proj.weight": "256 H", "mlp.down_proj.weight": "H 256"}
    second = {"post_attention_layernorm.weight": "H"}
    linear = {"self_attn.linear_attn.weight": "H H", "input_layernorm.weight": "H"}
    return ({**ATTENTION, **wide, **NORMS}, {**linear, **wide, **second}, {**wide, **second}, {})[i]


CLASSES: dict[str, Class] = {
    "CodeShellForCausalLM": Class(
        {"model_type": "codeshell", "vocab_size": VOCABULARY, "n_positions": 512, "n_embd": HIDDEN}
        | {
            "n_layer": N_LAYERS,
            "n_head": N_HEADS,
            "num_query_groups": N_KV_HEADS,
            "layer_norm_epsilon": 1e-5,
        },
        GPT,
        {**GPT_ENDS, "lm_head.weight": "V H"},
        prefix="transformer.h.{}.",
        bare=True,
    ),
    "MPTForCausalLM": Class(
        {"model_type": "mpt", "vocab_size": VOCABULARY, "d_model": HIDDEN, "n_heads": N_HEADS, "n_layers": 4}
        | {"max_seq_len": 512, "attn_config": {"clip_qkv": 6.5, "alibi": True, "alibi_bias_max": 8}},
        {
            "norm_1.weight": "H",
            "norm_2.weight": "H",
            "attn.Wqkv.weight": "3H H",
            "attn.out_proj.weight": "H H",
            "ffn.up_proj.weight": "4H H",
            "ffn.down_proj.weight": "H 4H",
        },
        {"transformer.wte.weight": "V H", "transformer.norm_f.weight": "H"},
        {"kind": "bpe", "split": "gpt2"},
        "transformer.blocks.{}.",
        bare=True,
    ),
    "OrionForCausalLM": Class(
        {"model_type": "orion"},
        {**LLAMA, **LAYER_NORMS},
        {**ENDS, "model.norm.bias": "H"},
        SPM,
    ),
    "PLMForCausalLM": Class(
        {**MLA, "model_type": "plm", "q_lora_rank": None, "hidden_act": "relu2", "tie_word_embeddings": True},
        {
            "self_attn.q_proj.weight": "144 H",
            "self_attn.kv_a_proj_with_mqa.weight": "40 H",
            "self_attn.kv_a_layernorm.weight": "32",
            "self_attn.kv_b_proj.weight": "216 32",
            "self_attn.o_proj.weight": "H 120",
            "mlp.up_proj.weight": "F H",
            "mlp.down_proj.weight": "H F",
            **NORMS,
        },
        {"model.embed_tokens.weight": "V H", "model.norm.weight": "H"},
    ),
    "PanguEmbeddedForCausalLM": Class(
        {"model_type": "PanguEmbedded", "bias": True},
        {**LLAMA, **QKV_BIAS, "self_attn.o_proj.bias": "H"},
        tokenizer=SPM,
    ),
    "NanbeigeForCausalLM": Class(
        {"model_type": "nanbeige", "num_loops": 2, "skip_loop_final_norm": True}, tokenizer=SPM
    ),
    "MaincoderForCausalLM": Class({"model_type": "maincoder", "head_dim": HEAD_DIM}, {**LLAMA, **QK_NORM}),
    "MapleForCausalLM": Class(
        {
            **MOE,
            "model_type": "maple",
            "head_dim": HEAD_DIM,
            "nope_on_global_attention": True,
            "sliding_window": 64,
        }
        | {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "partial_rotary_factor": 0.5},
        {**SPARSE, **QK_NORM},
    ),
    "ExaoneForCausalLM": Class(
        {
            "model_type": "exaone",
            "activation_function": "silu",
            "num_layers": N_LAYERS,
            "layer_norm_epsilon": 1e-5,
        }
        | {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            }
            | {"original_max_position_embeddings": 256}
        },
        EXAONE,
        {"transformer.wte.weight": "V H", "transformer.ln_f.weight": "H", "lm_head.weight": "V H"},
        prefix="transformer.h.{}.",
    ),
    "InternLM3ForCausalLM": Class(
        {"model_type": "internlm3", "head_dim": HEAD_DIM, "bias": False, "qkv_bias": False}, tokenizer=SPM
    ),
    "LLaDAModelLM": Class(
        {
            "model_type": "llada",
            "d_model": HIDDEN,
            "n_heads": N_HEADS,
            "n_kv_heads": N_KV_HEADS,
            "n_layers": 4,
        }
        | {
            "max_sequence_length": 512,
            "mlp_hidden_size": 160,
            "vocab_size": VOCABULARY,
            "rope_theta": 500000.0,
        }
        | {"rms_norm_eps": 1e-5},
        LLADA,
        {
            "model.transformer.wte.weight": "V H",
            "model.transformer.ln_f.weight": "H",
            "model.transformer.ff_out.weight": "V H",
        },
        prefix="model.transformer.blocks.{}.",
        bare=True,
    ),
    "LLaDAMoEModel": Class(LLADA_MOE, LLADA_MOE_BLOCK),
    "LLaDAMoEModelLM": Class(LLADA_MOE, LLADA_MOE_BLOCK),
    "SmallThinkerForCausalLM": Class(
        {
            "model_type": "smallthinker",
            "head_dim": HEAD_DIM,
            "moe_num_primary_experts": 3,
            "intermediate_size": None,
        }
        | {"moe_num_active_primary_experts": 2, "moe_ffn_hidden_size": 40, "sliding_window_size": 64}
        | {"moe_primary_router_apply_softmax": False, "sliding_window_layout": [0, 1, 1, 1]},
        {
            **ATTENTION,
            "block_sparse_moe.primary_router.weight": "E H",
            **{
                name.replace("_proj", ""): shape
                for name, shape in experts("block_sparse_moe.experts").items()
            },
            **NORMS,
        },
    ),
    "BailingMoeV2ForCausalLM": Class(
        BAILING_V2_CONFIG, after({**BAILING_V2, **swiglu()}, BAILING_V2_MOE), BAILING_ENDS
    ),
    "DeepseekForCausalLM": Class(
        {"model_type": "deepseek", "n_routed_experts": 3, "n_shared_experts": 2, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 40, "first_k_dense_replace": 1, "norm_topk_prob": False},
        after(LLAMA, {**SPARSE, **swiglu("mlp.shared_experts", "2M")}),
    ),
    "MiniCPMForCausalLM": Class(
        {"model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 24}, tokenizer=SPM
    ),
    "IQuestCoderForCausalLM": Class(
        {"model_type": "iquestcoder", "head_dim": 24},
        {
            **LLAMA,
            "self_attn.q_proj.weight": "144 H",
            "self_attn.k_proj.weight": "48 H",
            "self_attn.v_proj.weight": "48 H",
            "self_attn.o_proj.weight": "H 144",
        },
    ),
    "VLlama3ForCausalLM": Class(
        {"model_type": "vllama3"}, ends={**ENDS, "model.vision_encoder.x.weight": "8 8"}
    ),
    "LlamaBidirectionalModel": Class(
        {"model_type": "llama_bidirec", "pooling": "avg"},
        ends={"embed_tokens.weight": "V H", "norm.weight": "H"},
        prefix="layers.{}.",
    ),
    "KORMoForCausalLM": Class(
        {"model_type": "kormo", "head_dim": HEAD_DIM},
        {
            **ATTENTION,
            **swiglu(),
            "pre_attention_layernorm.weight": "H",
            "pre_mlp_layernorm.weight": "H",
        },
    ),
    "DreamModel": Class({"model_type": "Dream", "mask_token_id": 5}, {**LLAMA, **QKV_BIAS}, tokenizer=QWEN),
    "DotsOCRForCausalLM": Class(
        {"model_type": "dots_ocr"},
        {**LLAMA, **QKV_BIAS},
        {**ENDS, "vision_tower.patch_embed.patchifier.norm.weight": "8"},
        QWEN,
    ),
    "Sarashina2VisionForCausalLM": Class(
        {"model_type": "sarashina2_vision"},
        ends={**ENDS, "visual.merger.ln_q.weight": "8", "norm.weight": "H"},
        tokenizer=SPM,
        rename=((r"^(model|lm_head)", r"llm.\1"),),
    ),
    "GroveMoeForCausalLM": GROVE,
    "modeling_grove_moe.GroveMoeForCausalLM": GROVE,
    "JinaBertModel": JINA,
    "JinaBertForMaskedLM": JINA,
    "ChatGLMModel": CHATGLM,
    "ChatGLMForConditionalGeneration": CHATGLM,
    "MiniCPM3ForCausalLM": Class(
        {**MLA, "model_type": "minicpm3", "q_lora_rank": 40, "scale_emb": 12, "scale_depth": 1.4}
        | {
            "dim_model_base": 24,
            "rope_scaling": {"type": "longrope", "long_factor": [1.0, 1.5, 2.0, 4.25]}
            | {"short_factor": [1.0, 1.0, 1.25, 1.5], "original_max_position_embeddings": 256},
        },
        {
            "self_attn.q_a_proj.weight": "40 H",
            "self_attn.q_a_layernorm.weight": "40",
            "self_attn.q_b_proj.weight": "144 40",
            "self_attn.kv_a_proj_with_mqa.weight": "40 H",
            "self_attn.kv_a_layernorm.weight": "32",
            "self_attn.kv_b_proj.weight": "216 32",
            "self_attn.o_proj.weight": "H 120",
            **swiglu(),
            **NORMS,
        },
        {"model.embed_tokens.weight": "V H", "model.norm.weight": "H"},
        SPM,
    ),
    "DeciLMForCausalLM": Class(
        {"model_type": "nemotron-nas", "num_key_value_heads": None, "intermediate_size": None}
        | {
            "block_configs": [
                {
                    "attention": {"n_heads_in_group": 3, "no_op": False, "replace_with_linear": False},
                    "ffn": {"ffn_mult": 2.0},
                },
                {
                    "attention": {"n_heads_in_group": None, "no_op": False, "replace_with_linear": True},
                    "ffn": {"ffn_mult": 1.0},
                },
                {
                    "attention": {"n_heads_in_group": None, "no_op": True, "replace_with_linear": False},
                    "ffn": {"ffn_mult": 2.0},
                },
                {
                    "attention": {"n_heads_in_group": None, "no_op": True, "replace_with_linear": False},
                    "ffn": {"ffn_mult": None},
                },
            ]
        },
        deci,
        tokenizer={"kind": "llama-hf"},
    ),
    "BailingMoeForCausalLM": Class(
        {"model_type": "bailing_moe", "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
        | {"head_dim": HEAD_DIM, "first_k_dense_replace": 0, "num_shared_experts": 2, "norm_topk_prob": True}
        | {"norm_head": True},
        {
            "attention.query_key_value.weight": "160 H",
            "attention.dense.weight": "H Q",
            **NORMS,
            **moe(),
            **swiglu("mlp.shared_experts", "2M"),
        },
        BAILING_ENDS,
    ),
    "SarvamMoEForCausalLM": SARVAM,
    "modeling_sarvam_moe.SarvamMoEForCausalLM": SARVAM,
    "InternLM2ForCausalLM": Class(
        {"model_type": "internlm2", "bias": False, "vocab_size": tokenizers.N_TOKENS},
        {
            "attention.wqkv.weight": "160 H",
            "attention.wo.weight": "H Q",
            "feed_forward.w1.weight": "F H",
            "feed_forward.w3.weight": "F H",
            "feed_forward.w2.weight": "H F",
            "attention_norm.weight": "H",
            "ffn_norm.weight": "H",
        },
        {"model.tok_embeddings.weight": "320 H", "model.norm.weight": "H", "output.weight": "320 H"},
        SPM,
    ),
    "ArcticForCausalLM": Class(
        {"model_type": "arctic", "num_local_experts": 3, "num_experts_per_tok": 2},
        {
            **ATTENTION,
            **NORMS,
            "block_sparse_moe.gate.weight": "E H",
            **{
                f"block_sparse_moe.experts.{i}.{name}.weight": shape
                for i in range(3)
                for name, shape in (("w1", "F H"), ("w2", "H F"), ("w3", "F H"))
            },
            "residual_layernorm.weight": "H",
            "residual_mlp.w1.weight": "H H",
            "residual_mlp.w2.weight": "H H",
            "residual_mlp.w3.weight": "H H",
        },
        tokenizer=SPM,
    ),
    "CogVLMForCausalLM": Class(
        {"model_type": "cogvlm", "num_key_value_heads": N_HEADS},
        {
            **{
                f"self_attn.{kind}_expert_{x}.weight": shape
                for kind in ("language", "vision")
                for x, shape in (("query_key_value", "3H H"), ("dense", "H H"))
            },
            **swiglu("mlp.language_mlp"),
            **swiglu("mlp.vision_mlp"),
            **NORMS,
        },
        {**ENDS, "model.vision.boi": "1 1 H"},
        SPM,
    ),
    "JinaEmbeddingsV5Model": Class(
        {"model_type": "jina_embeddings_v5", "head_dim": HEAD_DIM, "is_causal": False, "pad_token_id": 0},
        ends={"embed_tokens.weight": "V H", "norm.weight": "H"},
        prefix="layers.{}.",
    ),
    "Spark2_5ForCausalLM": Class(
        {"model_type": "spark2_5", "head_dim": HEAD_DIM, "hidden_act": "gelu", "sliding_window": 64}
        | {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "gate_attn_act_mode": "sigmoid"}
        | {
            "headwise_attn_output_gate": True,
            "rope_theta": None,
            "rope_parameters": {
                "full_attention": {"rope_theta": 1000000.0, "partial_rotary_factor": 0.5},
                "sliding_attention": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0},
            },
        },
        {
            "self_attn.q_k_v_proj.weight": "160 H",
            "self_attn.g_proj.weight": "N H",
            "self_attn.o_proj.weight": "H Q",
            **swiglu(),
            **NORMS,
        },
    ),
    "XverseForCausalLM": Class(
        {"model_type": "xverse", "vocab_size": tokenizers.N_TOKENS, "num_key_value_heads": N_HEADS},
        {**LLAMA, "self_attn.k_proj.weight": "Q H", "self_attn.v_proj.weight": "Q H"},
        ends={**ENDS, "model.embed_tokens.weight": "320 H", "lm_head.weight": "320 H"},
        tokenizer={"kind": "llama-hf"},
    ),
    "RWForCausalLM": Class(
        {
            "model_type": "RefinedWebModel",
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "n_layer": N_LAYERS,
        }
        | {"n_head": N_HEADS, "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False}
        | {"layer_norm_epsilon": 1e-5},
        {
            "input_layernorm.weight": "H",
            "input_layernorm.bias": "H",
            "self_attention.query_key_value.weight": "128 H",
            "self_attention.dense.weight": "H H",
            "mlp.dense_h_to_4h.weight": "4H H",
            "mlp.dense_4h_to_h.weight": "H 4H",
        },
        {**{n.replace("wte", "word_embeddings"): s for n, s in GPT_ENDS.items()}, "lm_head.weight": "V H"},
        {"kind": "bpe", "split": "gpt2"},
        "transformer.h.{}.",
        bare=True,
    ),
    "GPTRefactForCausalLM": Class(
        {"model_type": "gpt_refact", "vocab_size": VOCABULARY, "n_positions": 512, "n_embd": HIDDEN}
        | {"n_layer": N_LAYERS, "n_head": N_HEADS, "layer_norm_epsilon": 1e-5, "multi_query": True},
        {
            "attn.q.weight": "H H",
            "attn.kv.weight": "2D H",
            "attn.c_proj.weight": "H H",
            "ln_1.weight": "H",
            "ln_2.weight": "H",
            "mlp.gate_up_proj.weight": "512 H",
            "mlp.c_proj.weight": "H 256",
        },
        {"transformer.wte.weight": "V H", "transformer.ln_f.weight": "H", "lm_head.weight": "V H"},
        prefix="transformer.h.{}.",
        bare=True,
    ),
    "NeoBERT": neobert("", {}),
    "NeoBERTLMHead": neobert("model.", {"decoder.weight": "V H", "decoder.bias": "V"}),
    "NeoBERTForSequenceClassification": neobert(
        "model.",
        {"dense.weight": "H H", "dense.bias": "H", "classifier.weight": "3 H", "classifier.bias": "3"},
        {"id2label": {"0": "no", "1": "yes", "2": "both"}},
    ),
}
"""By class, or CLASS+VARIANT."""
