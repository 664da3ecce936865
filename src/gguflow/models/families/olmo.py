"""OLMo: the first, without weights in its norms; and OLMo 2 and 3, whose norms come after each part."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rules import same
from gguflow.models.sliding import sliding_window
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those of the norm and of a limit for queries, keys and values."""
    keys = base_keys("olmo", config)
    keys.put("attention.layer_norm_epsilon", f32(1e-5))
    keys.number("attention.clamp_kqv", "clip_qkv")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder without norms' weights."""
    yield same("model.embed_tokens.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield same("lm_head.weight", "output.weight", (p.n_tokens, p.hidden), required=not p.is_tied)
    for i in range(p.n_layers):
        yield from decoder.attention(p, i, rotate=True, qkv_bias=False, output_bias=False)
        yield from decoder.feed_forward(p, i, bias=False)


def metadata_2(config: Document, directory: Path) -> Metadata:
    """The base keys; OLMo 3 has sliding windows in all layers but every fourth."""
    keys = base_keys("olmo2", config)
    if config.value("sliding_window") is not None:
        pattern = [(i + 1) % 4 != 0 for i in range(n_layers(config))]
        sliding_window(keys, pattern)
    return keys.metadata


def rules_2(p: Parameters) -> Rules:
    """A decoder with norms over all heads together, and after attention and the feed-forward network."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.attention(p, i)
        for kind, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            source = f"{layer}.self_attn.{kind}_norm"
            yield from decoder.norm(p, source, f"{block}.attn_{kind}_norm", n=n * p.head_dim)
        yield from decoder.norm(p, f"{layer}.post_attention_layernorm", f"{block}.post_attention_norm")
        yield from decoder.norm(p, f"{layer}.post_feedforward_layernorm", f"{block}.post_ffw_norm")
        yield from decoder.feed_forward(p, i)


ARCHITECTURES = (
    Architecture(
        name="olmo",
        classes=("OlmoForCausalLM", "OLMoForCausalLM"),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
    ),
    Architecture(
        name="olmo2",
        classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        metadata=metadata_2,
        rules=rules_2,
        tokenizer=bpe_metadata,
    ),
)
