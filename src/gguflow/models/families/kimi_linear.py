"""Kimi Linear: delta attention (KDA) in most blocks, latent attention in the others, and experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder, mixture, mla
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, n_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import Given, Rule, linear, negative_exponential, reshaped, same
from gguflow.models.tokenizers.tiktoken import kimi_linear_metadata

ROPE = RopeOptions(partial=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys with one key head, then those of delta and latent attention, and of experts."""
    keys = base_keys("kimi-linear", config.with_values(num_key_value_heads=1), rope=ROPE)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    delta = config.section("linear_attn_config")
    latent = delta.items("full_attn_layers")
    if not delta.values:
        raise config.missing("linear_attn_config")
    keys.layers("attention.head_count_kv", [int(i + 1 in latent) for i in range(n_layers(config))])
    if delta.integer("num_heads", n_heads(config)) != n_heads(config):
        message = "llama.cpp has as many heads in blocks of delta attention as in the others"
        finding = Finding(
            "M-009", message, delta.at("num_heads"), found=delta.value("num_heads"), expected=n_heads(config)
        )
        raise UnsupportedError(config.file, finding)
    keys.put("ssm.conv_kernel", u32(delta.integer("short_conv_kernel_size")))
    keys.put("kda.head_dim", u32(delta.integer("head_dim")))
    keys.integer("attention.q_lora_rank", "q_lora_rank", minimum=1)
    rank, rotated = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim", minimum=0)
    keys.put("attention.kv_lora_rank", u32(rank))
    keys.put("rope.dimension_count", u32(rotated))
    keys.put("attention.key_length", u32(rank + rotated))
    keys.put("attention.key_length_mla", u32(config.integer("qk_nope_head_dim") + rotated))
    keys.put("attention.value_length_mla", u32(config.integer("v_head_dim")))
    keys.put("expert_feed_forward_length", u32(config.integer("moe_intermediate_size")))
    keys.put("expert_shared_count", u32(config.integer("num_shared_experts", minimum=0)))
    keys.put("leading_dense_block_count", u32(mixture.n_dense(config) or 0))
    keys.put("expert_weights_scale", f32(config.number("routed_scaling_factor")))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Delta or latent attention; experts under Mixtral's names after dense blocks."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from mla.rules(p, i) if p.kv_heads(i) else delta_attention(p, i)
        source = f"model.layers.{i}.block_sparse_moe"
        if mixture.is_dense(p, i):
            for name in (f"model.layers.{i}.mlp", source):
                yield from decoder.feed_forward(p, i, source=name, bias=False)
            continue
        names = ("w1", "w3", "w2")
        yield from mixture.rules(p, i, source=source, names=names, shared="", fused=False)
        width = p.integer("expert_shared_count", 1) * p.expert_wide
        if width:
            shared = f"{source}.shared_experts"
            yield from decoder.feed_forward(p, i, source=shared, width=width, suffix="_shexp", bias=False)


def delta_attention(p: Parameters, i: int) -> Iterator[Rule | Given]:
    """Kimi's delta attention: short convolutions, and gates of low rank.

    p: hyper-parameters.
    i: number of the block.
    """
    source, block = f"model.layers.{i}.self_attn", f"blk.{i}"
    heads, width, kernel = p.heads(i), p.integer("kda.head_dim", minimum=1), p.integer("ssm.conv_kernel")
    inner = heads * width
    for x in "qkv":
        yield from linear(f"{source}.{x}_proj", f"{block}.attn_{x}", inner, p.hidden, bias=False)
        names = (f"{source}.{x}_conv1d.weight", f"{block}.ssm_conv1d_{x}.weight")
        for shape in ((inner, 1, kernel), (inner, kernel)):
            yield reshaped(*names, shape, (1, inner, 1, kernel))
    for name, target, n_out, n_in in (
        ("f_a_proj", "ssm_f_a", width, p.hidden),
        ("f_b_proj", "ssm_f_b", inner, width),
        ("g_a_proj", "ssm_g_a", width, p.hidden),
        ("g_b_proj", "ssm_g_b", inner, width),
        ("b_proj", "ssm_beta", heads, p.hidden),
        ("o_proj", "attn_output", p.hidden, inner),
    ):
        yield from linear(f"{source}.{name}", f"{block}.{target}", n_out, n_in, bias=False)
    yield negative_exponential(same(f"{source}.A_log", f"{block}.ssm_a", (1, 1, heads, 1)))
    yield same(f"{source}.dt_bias", f"{block}.ssm_dt.bias", (inner,))
    yield same(f"{source}.o_norm.weight", f"{block}.ssm_norm.weight", (width,))


ARCHITECTURE = Architecture(
    name="kimi-linear",
    classes=("KimiLinearForCausalLM", "KimiLinearModel"),
    metadata=metadata,
    rules=rules,
    tokenizer=kimi_linear_metadata,
    required=(*DECODER_KEYS, "kda.head_dim", "ssm.conv_kernel"),
)
