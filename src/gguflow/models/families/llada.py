"""LLaDA and LLaDA-MoE: models that fill in masked tokens (diffusion), so that attention has no direction."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, n_heads
from gguflow.models.orders import RopeOrder
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.variants import llada_metadata

ROPE = RopeOptions(read=frozenset(("rope_full_precision",)))
MASK = 156895
"""The token that LLaDA-MoE fills in; its configuration does not name it."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those of LLaDA's own names."""
    hidden, wide = config.integer("d_model", 4096), config.integer("mlp_hidden_size", 12288)
    context = config.integer("max_sequence_length", 4096)
    own = config.with_values(hidden_size=hidden, max_position_embeddings=context)
    keys = base_keys("llada", own, rope=ROPE)
    keys.drop("embedding_length")
    keys.metadata |= pooling_metadata("llada", directory)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("rope.dimension_count", u32(config.integer("head_dim", hidden // n_heads(config))))
    keys.put("context_length", u32(context))
    keys.put("embedding_length", u32(hidden))
    keys.put("feed_forward_length", u32(wide))
    keys.put("attention.causal", boolean(False))
    keys.metadata["diffusion.shift_logits"] = boolean(False)
    return keys.metadata


def moe_metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for experts and diffusion."""
    keys = base_keys("llada-moe", config)
    keys.integer("expert_feed_forward_length", "expert_intermediate_size", minimum=1)
    if config.integer("vocab_size") > MASK:
        keys.metadata["tokenizer.ggml.mask_token_id"] = u32(MASK)
    else:
        config.applied.add("special-id-beyond-vocabulary")
    keys.put("attention.causal", boolean(False))
    keys.metadata["diffusion.shift_logits"] = boolean(False)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Llama's blocks with the names of OLMo; rows of Q and K in the order of llama.cpp's "norm" rope."""
    model = "model.transformer"
    yield from decoder.ends(p, embeddings=f"{model}.wte", norm=f"{model}.ln_f", head=f"{model}.ff_out")
    order = RopeOrder(p.head_dim)
    for i in range(p.n_layers):
        layer, block = f"{model}.blocks.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.attn_norm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.ff_norm", f"{block}.ffn_norm")
        for x, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            yield from linear(f"{layer}.{x}_proj", f"{block}.attn_{x}", n * p.head_dim, p.hidden, order=order)
        yield from linear(f"{layer}.v_proj", f"{block}.attn_v", p.kv_heads(i) * p.value_dim, p.hidden)
        output = (p.hidden, p.heads(i) * p.value_dim)
        yield from linear(f"{layer}.attn_out", f"{block}.attn_output", *output)
        names = ("ff_proj", "up_proj", "ff_out")
        yield from decoder.feed_forward(p, i, source=layer, names=names)


def moe_rules(p: Parameters) -> Rules:
    """A decoder of experts with norms of heads."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.router(p, i)
        yield from decoder.experts(p, i)


ARCHITECTURES = (
    Architecture(
        name="llada",
        classes=("LLaDAModelLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=llada_metadata,
    ),
    Architecture(
        name="llada-moe",
        classes=("LLaDAMoEModel", "LLaDAMoEModelLM"),
        metadata=moe_metadata,
        rules=moe_rules,
        tokenizer=bpe_metadata,
    ),
)
