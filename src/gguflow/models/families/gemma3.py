"""Gemma 3, its text part, and EmbeddingGemma: Gemma 2 with norms of heads and two bases of rotation."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder, dense_modules
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.gemma import four_norms
from gguflow.models.keys import GELU, Keys, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata
from gguflow.models.rope import RopeOptions
from gguflow.models.text_parts import text_names, towers
from gguflow.models.tokenizers.variants import gemma3_metadata

ROPE = RopeOptions(separate=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, the bound of logits and the sliding window."""
    return keys_of("gemma3", config).metadata


def embedding_metadata(config: Document, directory: Path) -> Metadata:
    """The same, dense layers behind the encoder, and how the model pools."""
    keys = keys_of("gemma-embedding", config)
    dense_modules.put_keys(keys, directory)
    return keys.metadata | pooling_metadata("gemma-embedding", directory)


def keys_of(name: str, config: Document, rope: RopeOptions = ROPE) -> Keys:
    """What all of them have. Raises InvalidError (M-003) where logits of attention are bounded, too."""
    if "attn_logit_softcapping" in config:
        raise config.wrong("attn_logit_softcapping", config.value("attn_logit_softcapping"), "null")
    keys = base_keys(name, config, activation=GELU, rope=rope)
    if config.number("final_logit_softcapping", 0.0):
        keys.number("final_logit_softcapping", "final_logit_softcapping")
    if config.value("sliding_window_pattern") != 1:
        keys.integer("attention.sliding_window", "sliding_window")
    return keys


def rules(p: Parameters) -> Rules:
    """Norms around attention and around the feed-forward network, stored as differences from one."""
    yield from decoder.ends(p, may_lack_head=True, shift=True)
    for i in range(p.n_layers):
        yield from four_norms(p, i, shift=True)
        yield from decoder.attention(p, i, head_norms=True, qkv_bias=False, output_bias=False, shift=True)
        yield from decoder.feed_forward(p, i, bias=False)


def embedding_rules(p: Parameters) -> Rules:
    """The same, and dense layers behind the encoder."""
    yield from rules(p)
    yield from dense_modules.rules(p)


ARCHITECTURES = (
    Architecture(
        name="gemma3",
        classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        metadata=metadata,
        rules=rules,
        tokenizer=gemma3_metadata,
        rename=text_names(),
        skipped=towers("vision_tower", "multi_modal_projector"),
    ),
    Architecture(
        name="gemma-embedding",
        classes=("Gemma3TextModel",),
        metadata=embedding_metadata,
        rules=embedding_rules,
        tokenizer=gemma3_metadata,
    ),
)
