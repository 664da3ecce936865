"""MiniCPM (scales on embeddings, blocks and logits) and MiniCPM3 (latent attention)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder, mla
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import SILU, Keys, base_keys, hidden_size, n_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import SECTIONS, Rope, RopeOptions
from gguflow.models.rules import Given
from gguflow.models.tokenizers.variants import only_sentencepiece_metadata

ROPE = RopeOptions(kinds=("default", "linear", "dynamic", "yarn", "longrope"))
THIRD_ROPE = RopeOptions(kinds=("default", "longrope"), partial=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then the scales."""
    keys = base_keys("minicpm", config, rope=ROPE)
    keys.put("embedding_scale", f32(config.number("scale_emb")))
    keys.put("residual_scale", f32(config.number("scale_depth") / n_layers(config) ** 0.5))
    keys.put("logit_scale", f32(hidden_size(config) / config.integer("dim_model_base")))
    return keys.metadata


def third_metadata(config: Document, directory: Path) -> Metadata:
    """MiniCPM3: the keys in llama.cpp's order, which does not begin with the base table here.

    The scales are numbers in llama.cpp, those of the only released model.
    """
    config.require("hidden_act", SILU, "M-009", "llama.cpp computes SiLU in all models of this family")
    Rope.of(config, THIRD_ROPE)
    keys = Keys("minicpm3", config)
    keys.integer("context_length", "max_position_embeddings", minimum=1)
    keys.put("embedding_length", u32(hidden_size(config)))
    keys.put("block_count", u32(n_layers(config)))
    keys.put("feed_forward_length", u32(config.integer("intermediate_size")))
    keys.put("attention.head_count", u32(n_heads(config)))
    keys.put("attention.head_count_kv", u32(config.integer("num_key_value_heads", n_heads(config))))
    keys.put("attention.layer_norm_rms_epsilon", f32(config.number("rms_norm_eps")))
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.integer("attention.q_lora_rank", "q_lora_rank", minimum=1)
    rotated = config.integer("qk_rope_head_dim")
    keys.put("attention.kv_lora_rank", u32(config.integer("kv_lora_rank")))
    keys.put("attention.key_length", u32(config.integer("qk_nope_head_dim") + rotated))
    keys.put("rope.dimension_count", u32(rotated))
    value = config.integer("v_head_dim", hidden_size(config) // n_heads(config))
    if value != hidden_size(config) // n_heads(config):
        keys.put("attention.value_length", u32(value))
        config.applied.add("width-of-values")
    return keys.metadata


def long_factors(p: Parameters, n: int) -> Rules:
    """rope_factors_long.weight and rope_factors_short.weight, float32[n], if config.json has them.

    p: hyper-parameters.
    n: number of pairs that rotate in a head.

    Raises InvalidError (M-003).
    """
    if p.config is None:
        return
    section = next((p.config.section(name) for name in SECTIONS if p.config.section(name).values), None)
    if section is None or not ("long_factor" in section or "short_factor" in section):
        return
    for kind in ("long", "short"):
        key = f"{kind}_factor"
        numbers: Sequence[object] = section.items(key)
        if len(numbers) != n:
            raise section.wrong(key, f"{len(numbers)} numbers", f"{n} numbers, as {n} pairs rotate in a head")
        for i, number in enumerate(numbers):
            if not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 < number < 1e30:
                raise section.wrong(key, number, "a positive number", i)
        values = np.asarray(numbers, np.float64).astype(np.float32)
        yield Given(f"rope_factors_{kind}.weight", (n,), values)


def rules(p: Parameters) -> Rules:
    """Rows of Q and K in the order of llama.cpp's "norm" rope."""
    yield from long_factors(p, p.hidden // max(p.heads(), 1) // 2)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, rotate=True, qkv_bias=False, output_bias=False)
        yield from decoder.feed_forward(p, i, bias=False)


def third_rules(p: Parameters) -> Rules:
    """Latent attention as it is trained."""
    yield from long_factors(p, p.integer("rope.dimension_count") // 2)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from mla.unabsorbed_rules(p, i)
        yield from decoder.feed_forward(p, i, bias=False)


COMPUTED = (r"rope_factors_(?:long|short)\.weight",)

ARCHITECTURES = (
    Architecture(
        name="minicpm",
        classes=("MiniCPMForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=only_sentencepiece_metadata,
        computed=COMPUTED,
    ),
    Architecture(
        name="minicpm3",
        classes=("MiniCPM3ForCausalLM",),
        metadata=third_metadata,
        rules=third_rules,
        tokenizer=only_sentencepiece_metadata,
        computed=COMPUTED,
    ),
)
