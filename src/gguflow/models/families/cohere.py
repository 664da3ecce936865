"""Cohere: Command R, Command R7B, Aya, and their mixture of experts; one norm for both parts of a block."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, f32, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, base_keys, head_dim, hidden_size, n_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import same
from gguflow.models.sliding import sliding_window
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(kinds=("default",))


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys; files of Command R say the context of its training as model_max_length."""
    keys = base_keys("command-r", config, rope=ROPE)
    keys.integer("context_length", "model_max_length", "max_position_embeddings", minimum=1)
    last_keys(keys)
    return keys.metadata


def last_keys(keys: Keys) -> None:
    """The scale of the output, and that there is no scaling of frequencies."""
    keys.put("logit_scale", f32(keys.config.number("logit_scale")))
    keys.put("rope.scaling.type", string("none"))


def metadata_2(config: Document, directory: Path) -> Metadata:
    """The base keys, and the size of sliding windows: all layers but every fourth."""
    keys = base_keys("cohere2", config, rope=ROPE)
    keys.put("logit_scale", f32(config.number("logit_scale")))
    keys.put("attention.sliding_window", u32(config.integer("sliding_window")))
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    rotating = int(config.number("rotary_pct", 1.0) * head_dim(config))
    if rotating != int(config.number("rotary_pct", 1.0) * (hidden_size(config) // n_heads(config))):
        config.applied.add("rotating-part")
    keys.put("rope.dimension_count", u32(rotating))
    last_keys(keys)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Attention and a network side by side; the largest models have norms of heads."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm")
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        for kind, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            source, target = f"{layer}.self_attn.{kind}_norm.weight", f"{block}.attn_{kind}_norm.weight"
            yield same(source, target, (n, p.head_dim), required=False)
        yield from decoder.feed_forward(p, i, bias=False)


def metadata_moe(config: Document, directory: Path) -> Metadata:
    """The base keys, those of sliding windows, then those of experts."""
    keys = base_keys("cohere2moe", config, rope=ROPE)
    if config.value("prefix_dense_intermediate_size") is None and not n_dense(config):
        keys.drop("feed_forward_length")
    keys.put("logit_scale", f32(config.number("logit_scale")))
    sliding_window(keys)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    wide = config.integer("intermediate_size")
    keys.put("expert_feed_forward_length", u32(wide))
    keys.put("leading_dense_block_count", u32(n_dense(config)))
    keys.put("expert_weights_norm", boolean(config.flag("norm_topk_prob", False)))
    if shared := config.integer("num_shared_experts", 0, minimum=0):
        message = "llama.cpp averages shared experts and the others"
        config.require("shared_expert_combination_strategy", ("average",), "M-009", message)
        keys.put("expert_shared_count", u32(shared))
        keys.put("expert_shared_feed_forward_length", u32(wide * shared))
    keys.put("rope.dimension_count", u32(head_dim(config)))
    keys.put("rope.scaling.type", string("none"))
    return keys.metadata


def n_dense(config: Document) -> int:
    """Number of first layers without experts."""
    kinds = config.items("mlp_layer_types")
    if not kinds:
        return config.integer("first_k_dense_replace", 0, minimum=0)
    return next((i for i, kind in enumerate(kinds[: n_layers(config)]) if kind != "dense"), len(kinds))


def rules_moe(p: Parameters) -> Rules:
    """Attention and experts side by side."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer = f"model.layers.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"blk.{i}.attn_norm")
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        if i < p.integer("leading_dense_block_count", 0):
            yield from decoder.feed_forward(p, i, bias=False)
            continue
        yield from decoder.router(p, i)
        yield from decoder.experts(p, i, fused=True)
        if shared := p.integer("expert_shared_feed_forward_length", 0):
            source = f"{layer}.mlp.shared_experts"
            yield from decoder.feed_forward(p, i, source=source, width=shared, bias=False, suffix="_shexp")


REQUIRED = (*DECODER_KEYS[:-1], "attention.layer_norm_epsilon")

ARCHITECTURES = (
    Architecture(
        name="command-r",
        classes=("CohereForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        required=REQUIRED,
    ),
    Architecture(
        name="cohere2",
        classes=("Cohere2ForCausalLM",),
        metadata=metadata_2,
        rules=rules,
        tokenizer=bpe_metadata,
        required=(*REQUIRED, "attention.sliding_window"),
    ),
    Architecture(
        name="cohere2moe",
        classes=("Cohere2MoeForCausalLM",),
        metadata=metadata_moe,
        rules=rules_moe,
        tokenizer=bpe_metadata,
        required=(*DECODER_KEYS[:3], *REQUIRED[4:], "attention.sliding_window", "expert_count"),
    ),
)
