"""Jamba: attention in one layer of each period, Mamba in the others, and experts in some."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import SILU, Keys, experts, hidden_size, n_kv_heads, n_layers, require_activation
from gguflow.models.parameters import Parameters
from gguflow.models.rules import optional
from gguflow.models.state_space import mamba1
from gguflow.models.tokenizers.variants import jamba_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order; layers of Mamba have no key heads."""
    require_activation(config, SILU)
    keys = Keys("jamba", config)
    hidden, layers = hidden_size(config), n_layers(config)
    offset, period = config.integer("attn_layer_offset", minimum=0), config.integer("attn_layer_period")
    attention = range(offset, layers, period)
    keys.put("block_count", u32(layers))
    keys.integer("context_length", "max_position_embeddings", "n_ctx", minimum=1)
    keys.put("embedding_length", u32(hidden))
    keys.integer("feed_forward_length", "intermediate_size", minimum=1)
    keys.integer("attention.head_count", "num_attention_heads", minimum=1)
    each = [n_kv_heads(config) if i in attention else 0 for i in range(layers)]
    keys.layers("attention.head_count_kv", each)
    keys.integer("ssm.conv_kernel", "mamba_d_conv", default=4)
    keys.put("ssm.inner_size", u32(config.integer("mamba_expand") * hidden))
    keys.integer("ssm.state_size", "mamba_d_state", default=16)
    rank = config.value("mamba_dt_rank")
    usual = -(-hidden // 16)
    keys.put("ssm.time_step_rank", u32(usual if rank == "auto" else config.integer("mamba_dt_rank", usual)))
    keys.number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "rms_norm_eps", default=1e-6)
    experts(keys)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Attention without rotation, or Mamba; then experts, or one network."""
    yield from decoder.ends(p, norm="model.final_layernorm")
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.pre_ff_layernorm", f"{block}.ffn_norm")
        if p.kv_heads(i):
            yield from decoder.attention(p, i)
        else:
            yield from mamba1(p, i, f"{layer}.mamba", norms=True)
        if p.config is None:
            yield from optional(of_experts(p, i))
            yield from optional(decoder.feed_forward(p, i, source=f"{layer}.feed_forward"))
        elif has_experts(p.config, i):
            yield from of_experts(p, i)
        else:
            yield from decoder.feed_forward(p, i, source=f"{layer}.feed_forward")


def of_experts(p: Parameters, i: int) -> Rules:
    """The experts of a layer."""
    source = f"model.layers.{i}.feed_forward"
    yield from decoder.router(p, i, source=f"{source}.router")
    yield from decoder.experts(p, i, source=f"{source}.experts", fused=True)


def has_experts(config: Document, layer: int) -> bool:
    """Whether a layer has experts. Raises InvalidError (M-002, M-003)."""
    offset = config.integer("expert_layer_offset", minimum=0)
    return layer >= offset and (layer - offset) % config.integer("expert_layer_period") == 0


def rename(name: str, config: Document) -> str:
    """Older checkpoints have one expert where a layer has no others, and experts below "moe"."""
    name = name.replace(".moe.", ".feed_forward.")
    parts = name.split(".")
    if ".experts.0." in name and parts[2].isdecimal() and not has_experts(config, int(parts[2][:9])):
        name = name.replace(".experts.0.", ".")
    return name


ARCHITECTURE = Architecture(
    name="jamba",
    classes=("JambaForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=jamba_metadata,
    rename=rename,
    required=(*DECODER_KEYS, "ssm.inner_size"),
)
