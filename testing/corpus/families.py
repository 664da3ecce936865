"""Cases about families of models other than Llama: a small file of five of them, and what can be wrong."""

from __future__ import annotations

from collections.abc import Mapping

from testing.corpus.bytes import F32, STRING, U32, Tensor, gguf, key_value
from testing.corpus.case import Case, invalid, valid
from testing.corpus.meaning import KEYS as LLAMA_KEYS

RMS, MEAN = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
SIZES = {"block_count": 1, "context_length": 64, "embedding_length": 32}

KEYS: dict[str, tuple[str, dict[str, int]]] = {
    "gemma3": (
        RMS,
        {
            **SIZES,
            "feed_forward_length": 64,
            "attention.head_count": 2,
            "attention.head_count_kv": 1,
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 16,
        },
    ),
    "qwen3moe": (
        RMS,
        {
            **SIZES,
            "feed_forward_length": 64,
            "attention.head_count": 2,
            "attention.head_count_kv": 1,
            "attention.key_length": 32,
            "attention.value_length": 32,
            "expert_count": 2,
            "expert_used_count": 1,
            "expert_feed_forward_length": 32,
        },
    ),
    "mamba": (
        RMS,
        {
            **SIZES,
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 64,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 2,
        },
    ),
    "gpt2": (MEAN, {**SIZES, "feed_forward_length": 128, "attention.head_count": 2}),
    "deepseek2": (
        RMS,
        {
            **SIZES,
            "feed_forward_length": 64,
            "attention.head_count": 2,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": 32,
            "attention.kv_lora_rank": 32,
            "attention.key_length": 40,
            "attention.value_length": 32,
            "attention.key_length_mla": 24,
            "attention.value_length_mla": 16,
            "rope.dimension_count": 8,
            "leading_dense_block_count": 1,
        },
    ),
}
"""The key of the epsilon, and the integers, of each architecture; after its name."""

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "gemma3": {
        "token_embd.weight": (32, 8),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.post_attention_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.post_ffw_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 64),
        "blk.0.attn_k.weight": (32, 32),
        "blk.0.attn_v.weight": (32, 32),
        "blk.0.attn_output.weight": (64, 32),
        "blk.0.attn_q_norm.weight": (32,),
        "blk.0.attn_k_norm.weight": (32,),
        "blk.0.ffn_gate.weight": (32, 64),
        "blk.0.ffn_up.weight": (32, 64),
        "blk.0.ffn_down.weight": (64, 32),
    },
    "qwen3moe": {
        "token_embd.weight": (32, 8),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 64),
        "blk.0.attn_k.weight": (32, 32),
        "blk.0.attn_v.weight": (32, 32),
        "blk.0.attn_output.weight": (64, 32),
        "blk.0.attn_q_norm.weight": (32,),
        "blk.0.attn_k_norm.weight": (32,),
        "blk.0.ffn_gate_inp.weight": (32, 2),
        "blk.0.ffn_gate_exps.weight": (32, 32, 2),
        "blk.0.ffn_up_exps.weight": (32, 32, 2),
        "blk.0.ffn_down_exps.weight": (32, 32, 2),
    },
    "mamba": {
        "token_embd.weight": (32, 8),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ssm_in.weight": (32, 128),
        "blk.0.ssm_conv1d.weight": (4, 64),
        "blk.0.ssm_conv1d.bias": (64,),
        "blk.0.ssm_x.weight": (64, 18),
        "blk.0.ssm_dt.weight": (2, 64),
        "blk.0.ssm_dt.bias": (64,),
        "blk.0.ssm_a": (8, 64),
        "blk.0.ssm_d": (64,),
        "blk.0.ssm_out.weight": (64, 32),
    },
    "gpt2": {
        "token_embd.weight": (32, 8),
        "position_embd.weight": (32, 64),
        "output_norm.weight": (32,),
        "output_norm.bias": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.attn_norm.bias": (32,),
        "blk.0.attn_qkv.weight": (32, 96),
        "blk.0.attn_qkv.bias": (96,),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.attn_output.bias": (32,),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.ffn_norm.bias": (32,),
        "blk.0.ffn_up.weight": (32, 128),
        "blk.0.ffn_up.bias": (128,),
        "blk.0.ffn_down.weight": (128, 32),
        "blk.0.ffn_down.bias": (32,),
    },
    "deepseek2": {
        "token_embd.weight": (32, 8),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.attn_q_a.weight": (32, 32),
        "blk.0.attn_q_a_norm.weight": (32,),
        "blk.0.attn_q_b.weight": (32, 48),
        "blk.0.attn_kv_a_mqa.weight": (32, 40),
        "blk.0.attn_kv_a_norm.weight": (32,),
        "blk.0.attn_k_b.weight": (16, 32, 2),
        "blk.0.attn_v_b.weight": (32, 16, 2),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_gate.weight": (32, 64),
        "blk.0.ffn_up.weight": (32, 64),
        "blk.0.ffn_down.weight": (64, 32),
    },
}
"""The tensors of each, in GGUF's order of dimensions."""

_F32, _Q8_0 = 0, 8


def model(
    name: str,
    keys: Mapping[str, int | None] | None = None,
    shapes: Mapping[str, tuple[int, ...] | None] | None = None,
    *,
    epsilon: bool = True,
) -> bytes:
    """The small file of an architecture with integers and tensors replaced, added, or (None) left out."""
    named, integers = KEYS[name]
    metadata = [key_value("general.architecture", STRING, name)]
    metadata += [
        key_value(f"{name}.{key}", U32, value)
        for key, value in {**integers, **(keys or {})}.items()
        if value is not None
    ]
    metadata += [key_value(f"{name}.{named}", F32, 1e-5)] if epsilon else []
    metadata += [
        value
        for key, value in LLAMA_KEYS.items()
        if not key.startswith("llama.") and key != "general.architecture"
    ]
    tensors = [
        Tensor(tensor, shape, _Q8_0 if len(shape) > 1 and shape[0] % 32 == 0 else _F32)
        for tensor, shape in {**SHAPES[name], **(shapes or {})}.items()
        if shape is not None
    ]
    return gguf(metadata, tensors)


CASES: tuple[Case, ...] = (
    *(valid(f"family-{name}", "", model(name), level="strict") for name in KEYS),
    invalid(
        "gemma3-without-a-norm",
        "",
        model("gemma3", shapes={"blk.0.post_ffw_norm.weight": None}),
        "G-006",
    ),
    invalid("qwen3moe-more-experts", "", model("qwen3moe", {"expert_count": 4}), *["G-007"] * 4),
    invalid("mamba-without-inner-size", "", model("mamba", {"ssm.inner_size": None}), "G-003"),
    invalid("gpt2-without-epsilon", "", model("gpt2", epsilon=False), "G-003"),
    invalid(
        "gpt2-another-context",
        "",
        model("gpt2", {"context_length": 128}),
        "G-007",
        note="Positions are embedded: the table has one row for each.",
    ),
    invalid("deepseek2-another-rank", "", model("deepseek2", {"attention.kv_lora_rank": 64}), *["G-007"] * 4),
)
