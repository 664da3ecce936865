"""EXAONE: 3 and 3.5; and 4 and 4.5, whose norms come after each part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies
from gguflow.models.keys import base_keys, head_dim, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import LLAMA3, Rope, RopeOptions
from gguflow.models.rules import linear
from gguflow.models.sliding import sliding_window
from gguflow.models.text_parts import OTHER_INPUTS, text_name
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(kinds=LLAMA3.kinds, partial=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and how many rows of a head rotate.

    transformers' defaults are those of a later class with the same name of model, and do not count.
    """
    config = replace(config, defaults={})
    keys = base_keys("exaone", config, rope=ROPE)
    rope = Rope.of(config, ROPE)
    keys.put("rope.dimension_count", u32(int(rope.partial * head_dim(config))))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Llama's blocks under GPT-2's names; rows are not reordered ("neox" rope)."""
    yield from frequencies(p, ROPE)
    yield from decoder.ends(p, embeddings="transformer.wte", norm="transformer.ln_f")
    for i in range(p.n_layers):
        layer, block = f"transformer.h.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.ln_1", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.ln_2", f"{block}.ffn_norm")
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        yield from decoder.attention(p, i, source=f"{layer}.attn.attention", names=names)
        for source, target, n_out, n_in in (
            ("c_fc_0", "ffn_gate", p.wide(i), p.hidden),
            ("c_fc_1", "ffn_up", p.wide(i), p.hidden),
            ("c_proj", "ffn_down", p.hidden, p.wide(i)),
        ):
            yield from linear(f"{layer}.mlp.{source}", f"{block}.{target}", n_out, n_in)


def metadata_4(config: Document, directory: Path) -> Metadata:
    """The base keys, and which layers have sliding windows.

    Raises UnsupportedError (M-008) for blocks that predict further tokens, and as `base_keys`.
    """
    if config.integer("num_nextn_predict_layers", 0, minimum=0):
        message = "blocks that predict further tokens are not converted for this family"
        found = config.value("num_nextn_predict_layers")
        finding = Finding("M-008", message, config.at("num_nextn_predict_layers"), found=found)
        raise UnsupportedError(config.file, finding)
    keys = base_keys("exaone4", config, rope=LLAMA3)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    if config.value("sliding_window") is not None:
        sliding_window(keys, by_pattern(config))
    return keys.metadata


def by_pattern(config: Document) -> list[bool]:
    """Which layers have sliding windows, by sliding_window_pattern: "LLLG", or the number of a period.

    Raises InvalidError (M-003).
    """
    pattern, layers = config.value("sliding_window_pattern"), range(n_layers(config))
    if isinstance(pattern, str) and pattern:
        return [pattern[i % len(pattern)] == "L" for i in layers]
    if pattern is None:
        return []
    period = config.integer("sliding_window_pattern")
    return [(i + 1) % period != 0 for i in layers]


def rules_4(p: Parameters) -> Rules:
    """A decoder with norms of heads, and after attention and the feed-forward network."""
    yield from frequencies(p)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.norm(p, f"{layer}.post_attention_layernorm", f"{block}.post_attention_norm")
        yield from decoder.norm(p, f"{layer}.post_feedforward_layernorm", f"{block}.post_ffw_norm")
        yield from decoder.feed_forward(p, i)


ARCHITECTURES = (
    Architecture(
        name="exaone",
        classes=("ExaoneForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        computed=(r"rope_freqs\.weight",),
        required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
    ),
    Architecture(
        name="exaone4",
        classes=("Exaone4ForCausalLM", "Exaone4_5_ForConditionalGeneration"),
        metadata=metadata_4,
        rules=rules_4,
        tokenizer=bpe_metadata,
        rename=text_name,
        skipped=OTHER_INPUTS,
        computed=(r"rope_freqs\.weight",),
    ),
)
