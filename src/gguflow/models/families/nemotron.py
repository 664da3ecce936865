"""Nemotron 3 and 4 (Minitron): norms stored as their difference from one, a part of each head rotates."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, head_dim, hidden_size, n_heads
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions
from gguflow.models.rules import Rule, same, shifted
from gguflow.models.tokenizers.variants import nemotron_metadata

ROPE = RopeOptions(kinds=("default", "linear"), partial=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those of norms and rotation."""
    keys = base_keys("nemotron", config, activation=("relu2",), rope=ROPE)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    epsilon = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
    keys.number("attention.layer_norm_epsilon", *epsilon)
    rope = Rope.of(config, ROPE)
    rotating = int(rope.partial * head_dim(config))
    if rotating != int(rope.partial * hidden_size(config)) // n_heads(config):
        config.applied.add("rotating-part")
    keys.put("rope.dimension_count", u32(rotating))
    keys.put("rope.scaling.type", string("linear" if rope.kind == "linear" else "none"))
    if rope.kind == "linear":
        keys.put("rope.scaling.factor", f32(rope.factor()))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder with a network without gate; one is added to the weights of norms."""
    yield same("model.embed_tokens.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield same("lm_head.weight", "output.weight", (p.n_tokens, p.hidden), required=not p.is_tied)
    yield from norm(p, "model.norm", "output_norm")
    for i in range(p.n_layers):
        yield from norm(p, f"model.layers.{i}.input_layernorm", f"blk.{i}.attn_norm")
        yield from norm(p, f"model.layers.{i}.post_attention_layernorm", f"blk.{i}.ffn_norm")
        yield from decoder.attention(p, i)
        yield from decoder.feed_forward(p, i, names=("", "up_proj", "down_proj"))


def norm(p: Parameters, source: str, target: str) -> tuple[Rule, Rule]:
    """A layer norm whose weight is stored as its difference from one, and its bias."""
    return (
        shifted(f"{source}.weight", f"{target}.weight", (p.hidden,)),
        same(f"{source}.bias", f"{target}.bias", (p.hidden,)),
    )


ARCHITECTURE = Architecture(
    name="nemotron",
    classes=("NemotronForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=nemotron_metadata,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
