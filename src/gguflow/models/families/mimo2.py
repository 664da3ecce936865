"""Xiaomi's MiMo V2: windows that slide with sinks, other numbers of key heads there, experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder, mixture, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions
from gguflow.models.rules import Given, Rule, linear, optional, same
from gguflow.models.text_parts import OTHER_INPUTS
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(partial=True, separate=True)
NEXT = r"model\.mtp\.layers\.(\d{1,6})\..*"
N_NEXT = 3
"""Blocks for further tokens that released models have; config.json does not say it."""

EQUAL = (
    ("swa_head_dim", "head_dim"),
    ("swa_num_attention_heads", "num_attention_heads"),
    ("swa_v_head_dim", "v_head_dim"),
)
"""Sizes that are the same in all layers in llama.cpp."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for windows and experts."""
    for key, other in EQUAL:
        if config.integer(key, config.integer(other)) != config.integer(other):
            message = f"llama.cpp has the same {other} in all layers of this family"
            finding = Finding(
                "M-009", message, config.at(key), found=config.value(key), expected=config.value(other)
            )
            raise UnsupportedError(config.file, finding)
    config.require(
        "topk_method", ("noaux_tc",), "M-009", "llama.cpp has one method for choosing experts here"
    )
    n = next_tokens.n_named(config, "num_nextn_predict_layers", NEXT)
    if n < N_NEXT and config.next_tokens:
        config.applied.add("next-tokens-absent")
    keys = base_keys("mimo2", config, rope=ROPE, layers=n_layers(config) + n)
    slides = [kind == 1 for kind in config.items("hybrid_layer_pattern")]
    if len(slides) != n_layers(config):
        raise config.wrong("hybrid_layer_pattern", len(slides), f"one for each of {n_layers(config)} layers")
    slides += [True] * n
    full, sliding = config.integer("num_key_value_heads"), config.integer("swa_num_key_value_heads")
    keys.layers("attention.head_count_kv", [sliding if slide else full for slide in slides])
    keys.put("attention.sliding_window", u32(config.integer("sliding_window")))
    keys.layers("attention.sliding_window_pattern", [int(slide) for slide in slides])
    keys.put("attention.value_length", u32(config.integer("v_head_dim")))
    keys.put("expert_count", u32(config.integer("n_routed_experts")))
    keys.put("expert_feed_forward_length", u32(config.integer("moe_intermediate_size")))
    keys.put("rope.dimension_count", u32(int(config.integer("head_dim") * Rope.of(config, ROPE).partial)))
    epsilon = config.first(("layernorm_epsilon", "rms_norm_eps"))
    keys.put("attention.layer_norm_rms_epsilon", f32(1e-5 if epsilon is None else config.number(epsilon)))
    keys.number("attention.value_scale", "attention_value_scale")
    next_tokens.put_number(keys, n, writes_zero=False)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Dense blocks and blocks of experts in any order; Q, K and V may be one matrix."""
    yield from decoder.ends(p)
    first = p.n_layers - p.integer("nextn_predict_layers", 0)
    for i in range(p.n_layers):
        is_next = i >= first
        source = f"model.mtp.layers.{i - first}" if is_next else f"model.layers.{i}"
        yield from _attention(p, i, f"{source}.self_attn")
        yield from decoder.norm(p, f"{source}.input_layernorm", f"blk.{i}.attn_norm")
        for name in (*(("pre_mlp_layernorm",) if is_next else ()), "post_attention_layernorm"):
            yield from decoder.norm(p, f"{source}.{name}", f"blk.{i}.ffn_norm")
        yield from optional(decoder.feed_forward(p, i, source=f"{source}.mlp", bias=False))
        if is_next:
            yield from next_tokens.rules(p, i, source=source)
            last = (f"{source}.final_layernorm.weight", f"blk.{i}.layer_output_norm.weight")
            yield same(*last, (p.hidden,), required=False)
        else:
            yield from optional(mixture.rules(p, i, source=f"{source}.mlp", shared="", fused=False))


def _attention(p: Parameters, i: int, source: str) -> Iterator[Rule | Given]:
    """Attention with a sink for each head in layers that slide."""
    fused = f"{source}.qkv_proj"
    is_fused = p.config is not None and f"{fused}.weight" in p.config.tensors
    parts = decoder.attention(p, i, source=source, qkv_bias=False, output_bias=False)
    yield from optional(parts, needed=p.config is not None and not is_fused)
    rows = (p.heads(i) + p.kv_heads(i)) * p.head_dim + p.kv_heads(i) * p.value_dim
    yield from linear(fused, f"blk.{i}.attn_qkv", rows, p.hidden, bias=False, required=is_fused)
    for suffix in ("", ".weight"):
        name = f"{source}.attention_sink_bias{suffix}"
        yield same(name, f"blk.{i}.attn_sinks.weight", (p.heads(i),), required=False)


def rename(name: str, config: Document) -> str | None:
    """Leave out blocks for further tokens, if the user wants none."""
    return None if not config.next_tokens and name.startswith("model.mtp.") else name


ARCHITECTURE = Architecture(
    name="mimo2",
    classes=("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    rename=rename,
    skipped=(*OTHER_INPUTS, r"(?:model\.)?(?:audio_encoder|speech_embeddings|audio_tokenizer)\..*"),
)
