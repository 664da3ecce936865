"""ERNIE 4.5, dense and with experts, and PaddleOCR-VL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder, mixture
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import MAX_EXPERTS, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import ALL_OF_A_HEAD, RopeOptions
from gguflow.models.rules import Given, Rule, reshaped, same, split
from gguflow.models.tokenizers.variants import spaced_sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """ERNIE 4.5: the base keys."""
    return base_keys("ernie4_5", config).metadata


def ocr_metadata(config: Document, directory: Path) -> Metadata:
    """PaddleOCR-VL: the same, with positions of several dimensions."""
    return base_keys("paddleocr", config, rope=RopeOptions(sections=True)).metadata


def moe_metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for experts."""
    keys = base_keys("ernie4_5-moe", config, rope=ALL_OF_A_HEAD)
    keys.put("expert_count", u32(config.integer("moe_num_experts", maximum=MAX_EXPERTS)))
    keys.put("expert_used_count", u32(config.integer("moe_k")))
    keys.put("interleave_moe_layer_step", u32(config.integer("moe_layer_interval")))
    keys.put("leading_dense_block_count", u32(config.integer("moe_layer_start_index", minimum=0)))
    wide = keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    shared = keys.integer("expert_shared_count", "moe_num_shared_experts")
    if shared and wide:
        keys.put("expert_shared_feed_forward_length", u32(wide * shared))
        if wide * shared != config.integer("intermediate_size") // config.integer("num_key_value_heads"):
            config.applied.add("width-of-shared-experts")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Rows of Q and K as they are; Q, K and V, and gate and up, may each be one matrix."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer = f"model.layers.{i}"
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i)
        yield from decoder.fused_qkv(p, i, f"{layer}.self_attn.qkv_proj", bias=False)
        if has_experts(p, i):
            yield from _experts(p, i)
        else:
            yield from decoder.feed_forward(p, i)
            halves = [(f"blk.{i}.ffn_{kind}.weight", p.wide(i)) for kind in ("gate", "up")]
            yield split(f"{layer}.mlp.up_gate_proj.weight", halves, (p.hidden,))


def has_experts(p: Parameters, i: int) -> bool:
    """Whether a block has experts.

    p: hyper-parameters.
    i: number of the block.
    """
    return not mixture.is_dense(p, i) and (i + 1) % max(p.integer("interleave_moe_layer_step", 1), 1) == 0


def _experts(p: Parameters, i: int) -> Iterator[Rule | Given]:
    """Experts; the router's bias has a leading axis."""
    source, target = f"model.layers.{i}.mlp", f"blk.{i}.exp_probs_b.bias"
    shared = p.integer("expert_shared_feed_forward_length", 0)
    yield from mixture.rules(p, i, bias="", shared_width=shared)
    bias = f"{source}.moe_statics.e_score_correction_bias"
    yield reshaped(bias, target, (1, p.n_experts), (p.n_experts,), required=False)
    yield same(bias, target, (p.n_experts,), required=False)


def rename(name: str, config: Document) -> str:
    """The prefix of Baidu's own programs is that of transformers."""
    return name.replace("ernie.", "model.").replace("model.language_model.", "model.")


NEXT_TOKENS = r"model\.mtp_(?:block|emb_norm|hidden_norm|linear_proj)\..*"
"""Blocks that predict further tokens, which llama.cpp does not have in this family."""

ARCHITECTURES = (
    Architecture(
        name="ernie4_5",
        classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
        metadata=metadata,
        rules=rules,
        tokenizer=spaced_sentencepiece_metadata,
        rename=rename,
    ),
    Architecture(
        name="ernie4_5-moe",
        classes=("Ernie4_5_MoeForCausalLM",),
        metadata=moe_metadata,
        rules=rules,
        tokenizer=spaced_sentencepiece_metadata,
        rename=rename,
        skipped=(NEXT_TOKENS,),
    ),
    Architecture(
        name="paddleocr",
        classes=("PaddleOCRVLForConditionalGeneration",),
        metadata=ocr_metadata,
        rules=rules,
        tokenizer=spaced_sentencepiece_metadata,
        rename=rename,
        skipped=(r"(?:model\.)?(?:visual|mlp_AR)\..*",),
    ),
)
