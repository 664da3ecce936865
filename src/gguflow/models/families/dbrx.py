"""DBRX: fused queries, keys and values, and experts stored one after the other in one matrix."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Part, Rule, linear, reshaped
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.views import Reshape, Transpose


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    keys, attention, network = (
        Keys("dbrx", config),
        config.section("attn_config"),
        config.section("ffn_config"),
    )
    keys.integer("block_count", "n_layers", minimum=1)
    keys.integer("context_length", "max_seq_len", minimum=1)
    keys.integer("embedding_length", "d_model", minimum=1)
    keys.put("feed_forward_length", u32(network.integer("ffn_hidden_size")))
    keys.integer("attention.head_count", "n_heads", minimum=1)
    keys.put("attention.head_count_kv", u32(attention.integer("kv_n_heads")))
    keys.put("rope.freq_base", f32(attention.number("rope_theta")))
    keys.put("attention.clamp_kqv", f32(attention.number("clip_qkv")))
    keys.put("expert_count", u32(network.integer("moe_num_experts")))
    keys.put("expert_used_count", u32(network.integer("moe_top_k")))
    keys.put("attention.layer_norm_epsilon", f32(1e-5))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder of experts."""
    yield from decoder.ends(p, embeddings="transformer.wte", norm="transformer.norm_f")
    rows = (p.heads() + 2 * p.kv_heads()) * p.head_dim
    n, wide, hidden = p.n_experts, p.expert_wide, p.hidden
    for i in range(p.n_layers):
        layer, block = f"transformer.blocks.{i}", f"blk.{i}"
        source = f"{layer}.norm_attn_norm"
        yield from decoder.norm(p, f"{source}.norm_1", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{source}.norm_2", f"{block}.attn_output_norm")
        yield from linear(f"{source}.attn.Wqkv", f"{block}.attn_qkv", rows, hidden, bias=False)
        inner = p.heads() * p.head_dim
        yield from linear(f"{source}.attn.out_proj", f"{block}.attn_output", hidden, inner, bias=False)
        yield from decoder.router(p, i, source=f"{layer}.ffn.router.layer")
        experts = f"{layer}.ffn.experts.mlp"
        for name, kind in (("w1", "gate"), ("v1", "up")):
            target = f"{block}.ffn_{kind}_exps.weight"
            yield reshaped(f"{experts}.{name}", target, (n * wide, hidden), (n, wide, hidden))
        yield Rule(
            (Part(f"{experts}.w2", (n * wide, hidden)),),
            (Part(f"{block}.ffn_down_exps.weight", (n, hidden, wide)),),
            lambda views: (Transpose(Reshape(views[0], (n, wide, hidden))),),
            lambda views: (Reshape(Transpose(views[0]), (n * wide, hidden)),),
        )


ARCHITECTURE = Architecture(
    name="dbrx",
    classes=("DbrxForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon", "expert_count"),
)
