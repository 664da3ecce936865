"""DeepSeek's first mixture of experts, and DeepSeek-OCR: usual attention, DeepSeek-V2's experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata, f32, string, u32
from gguflow.models import decoder, mixture
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families import deepseek2
from gguflow.models.keys import base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.rope import SECTIONS, RopeOptions
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.variants import sentencepiece_or_bpe_metadata

UNSCALED = RopeOptions(kinds=("default", "dynamic"))
"""Rotary embeddings without scaling."""

OCR_TEMPLATE = "{% for m in messages %}{{m['content']}}{% endfor %}"
"""llama.cpp's chat template for DeepSeek-OCR: nothing but the texts."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for experts."""
    keys = base_keys("deepseek", config, rope=UNSCALED)
    keys.put("rope.dimension_count", u32(head_dim(config)))
    keys.put("rope.scaling.type", string("none"))
    keys.put("leading_dense_block_count", u32(config.integer("first_k_dense_replace", minimum=0)))
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("expert_feed_forward_length", u32(config.integer("moe_intermediate_size")))
    keys.put("expert_weights_scale", f32(1.0))
    keys.put("expert_count", u32(config.integer("n_routed_experts")))
    keys.put("expert_shared_count", u32(config.integer("n_shared_experts", minimum=0)))
    return keys.metadata


def ocr_metadata(config: Document, directory: Path) -> Metadata:
    """DeepSeek-OCR: DeepSeek-V2's keys, without those of latent attention.

    The defaults of DeepSeek-V2's configuration, such as the width of heads, are not those of this model.
    """
    config = replace(config, defaults={})
    with_epsilon = config.with_values(rms_norm_eps=config.number("rms_norm_eps", 1e-6))
    keys = base_keys("deepseek2-ocr", with_epsilon, rope=UNSCALED)
    if config.first((*SECTIONS, "rope_theta")) is None:
        keys.drop("rope.freq_base")  # llama.cpp's own default
    deepseek2.dense_keys(keys)
    keys.integer("attention.q_lora_rank", "q_lora_rank")
    deepseek2.expert_keys(keys)
    keys.put("rope.dimension_count", u32(config.integer("qk_rope_head_dim", minimum=0)))
    if config.integer("sliding_window_size", 0, minimum=0) or config.integer("sliding_window", 0, minimum=0):
        keys.integer("attention.sliding_window", "sliding_window_size", "sliding_window")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Rows of Q and K in the order of llama.cpp's "norm" rope; dense blocks first."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(
            p, i, rotate=p.architecture == "deepseek", qkv_bias=False, output_bias=False
        )
        if mixture.is_dense(p, i):
            yield from decoder.feed_forward(p, i, bias=False)
        else:
            yield from mixture.rules(p, i, fused=False)


def ocr_tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.json, with a chat template if there is none."""
    return {"tokenizer.chat_template": string(OCR_TEMPLATE)} | bpe_metadata(files)


def ocr_rename(name: str, config: Document) -> str | None:
    """Leave out a head that is tied to the embeddings."""
    return None if deepseek2.is_tied_head(name, config) else name


ARCHITECTURES = (
    Architecture(
        name="deepseek",
        classes=("DeepseekForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=sentencepiece_or_bpe_metadata,
    ),
    Architecture(
        name="deepseek2-ocr",
        classes=("DeepseekOCRForCausalLM", "UnlimitedOCRForCausalLM"),
        metadata=ocr_metadata,
        rules=rules,
        tokenizer=ocr_tokenizer,
        rename=ocr_rename,
        skipped=(
            r"model\.(?:sam_model|vision_model|qwen2_model|projector)\..*",
            r"model\.(?:image_newline|view_seperator)",
        ),
    ),
)
