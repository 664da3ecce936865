"""Arcee's AFMoE (Trinity): gated attention, norms around each part, experts beside shared ones."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies, llama_keys, tokenizer
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear, same


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys, those of experts, and the size of sliding windows."""
    keys = llama_keys("afmoe", config)
    keys.integer("expert_shared_count", "num_shared_experts")
    keys.integer("expert_feed_forward_length", "moe_intermediate_size")
    keys.integer("leading_dense_block_count", "num_dense_layers")
    keys.flag("expert_weights_norm", "route_norm")
    keys.number("expert_weights_scale", "route_scale")
    keys.integer("attention.sliding_window", "sliding_window")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Experts in all layers but the first ones; rows are not reordered ("neox" rope)."""
    yield from frequencies(p)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        for source, target in (
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_mlp_layernorm", "ffn_norm"),
            ("post_mlp_layernorm", "post_ffw_norm"),
        ):
            yield from decoder.norm(p, f"{layer}.{source}", f"{block}.{target}")
        yield from decoder.attention(p, i, head_norms=True)
        rows = p.heads(i) * p.head_dim
        yield from linear(f"{layer}.self_attn.gate_proj", f"{block}.attn_gate", rows, p.hidden, bias=False)
        if i < p.integer("leading_dense_block_count", 0):
            yield from decoder.feed_forward(p, i)
            continue
        yield from decoder.router(p, i, source=f"{layer}.mlp.router.gate")
        yield same(f"{layer}.mlp.expert_bias", f"{block}.exp_probs_b.bias", (p.n_experts,), required=False)
        yield from decoder.experts(p, i)
        if n := p.integer("expert_shared_count", 0):
            source = f"{layer}.mlp.shared_experts"
            yield from decoder.feed_forward(p, i, source=source, width=n * p.expert_wide, suffix="_shexp")


ARCHITECTURE = Architecture(
    name="afmoe",
    classes=("AfmoeForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
    required=(*DECODER_KEYS, "expert_count"),
)
