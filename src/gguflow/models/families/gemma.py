"""Gemma 1 and 2: gated GELU, norms stored as the difference from one, embeddings as output matrix."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GELU, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.variants import GEMMA_EOT, gemma3_metadata, with_ids

ORDER = (
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"),
    *("attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length"),
    "attention.value_length",
)
"""The keys of Gemma 1, those of the base table but for the rotation, which is llama.cpp's default."""


def metadata(config: Document, directory: Path) -> Metadata:
    """Those keys of the base table that Gemma has, in its own order."""
    return _own(base_keys("gemma", config, activation=GELU).metadata, "gemma")


def metadata2(config: Document, directory: Path) -> Metadata:
    """Gemma 1's keys, the bounds of logits, and the sliding window."""
    keys = base_keys("gemma2", config, activation=GELU)
    keys.metadata = _own(keys.metadata, "gemma2")
    keys.number("attn_logit_softcapping", "attn_logit_softcapping")
    keys.number("final_logit_softcapping", "final_logit_softcapping")
    keys.integer("attention.sliding_window", "sliding_window")
    return keys.metadata


def _own(keys: Metadata, name: str) -> Metadata:
    return {f"{name}.{key}": keys[f"{name}.{key}"] for key in ORDER if f"{name}.{key}" in keys}


def rules(p: Parameters) -> Rules:
    """A decoder whose output matrix is that of the embeddings."""
    yield from decoder.ends(p, may_lack_head=True, shift=True)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i, shift=True)
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        yield from decoder.feed_forward(p, i, bias=False)


def rules2(p: Parameters) -> Rules:
    """The same with norms after attention and after the feed-forward network, too."""
    yield from decoder.ends(p, may_lack_head=True, shift=True)
    for i in range(p.n_layers):
        yield from four_norms(p, i, shift=True)
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        yield from decoder.feed_forward(p, i, bias=False)


def four_norms(p: Parameters, i: int, *, shift: bool) -> Rules:
    """Norms around attention and around the feed-forward network.

    p: hyper-parameters.
    i: number of the layer.
    shift: whether their weights are stored as the difference from one.
    """
    for source, target in (
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ):
        yield from decoder.norm(p, f"model.layers.{i}.{source}", f"blk.{i}.{target}", shift=shift)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Gemma 2's, and the end of a turn."""
    return with_ids(gemma3_metadata(files), {"eot": GEMMA_EOT} if files.n_tokens > GEMMA_EOT else {})


_REQUIRED = (*ORDER[:5], "attention.layer_norm_rms_epsilon")
_SKIPPED = (r"lm_head\.weight",)

ARCHITECTURES = (
    Architecture(
        name="gemma",
        classes=("GemmaForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=tokenizer,
        required=_REQUIRED,
        skipped=_SKIPPED,
    ),
    Architecture(
        name="gemma2",
        classes=("Gemma2ForCausalLM",),
        metadata=metadata2,
        rules=rules2,
        tokenizer=gemma3_metadata,
        required=_REQUIRED,
        skipped=_SKIPPED,
    ),
)
