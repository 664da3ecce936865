"""Phi-3, 3.5 and 4, and their mixture of experts: fused queries, keys and values, fused gate and up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import SILU, Keys, experts, hidden_size, n_heads, require_activation
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions
from gguflow.models.rules import Given, same
from gguflow.models.text_parts import OTHER_INPUTS
from gguflow.models.tokenizers.variants import phi3_metadata

ROPE = RopeOptions(
    kinds=("default", "longrope"), partial=True, read=frozenset(("short_mscale", "long_mscale"))
)


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    return phi3_keys("phi3", config).metadata


def metadata_moe(config: Document, directory: Path) -> Metadata:
    """The same, then those of experts."""
    keys = phi3_keys("phimoe", config)
    experts(keys)
    return keys.metadata


def phi3_keys(name: str, config: Document) -> Keys:
    """The keys of both.

    name: `general.architecture`.
    config: config.json.

    Raises InvalidError (M-002, M-003), UnsupportedError (M-005, M-009).
    """
    require_activation(config, SILU)
    keys = Keys(name, config)
    rope = Rope.of(config, ROPE)
    if rope.kind == "longrope":
        keys.put("rope.scaling.attn_factor", f32(attention_factor(config, rope)))
    keys.integer("context_length", "n_positions", "max_position_embeddings", minimum=1)
    keys.put("rope.scaling.original_context_length", u32(rope.original))
    keys.put("embedding_length", u32(hidden_size(config)))
    keys.integer("feed_forward_length", "intermediate_size", minimum=1)
    keys.integer("block_count", "num_hidden_layers", "n_layer", minimum=1)
    keys.put("attention.head_count", u32(n_heads(config)))
    keys.integer("attention.head_count_kv", "num_key_value_heads", "n_head_kv", minimum=1)
    keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    keys.put("rope.dimension_count", u32(n_rotating(config, rope)))
    keys.put("rope.freq_base", f32(rope.theta))
    window = 0 if config.value("sliding_window") is None else config.integer("sliding_window", minimum=0)
    keys.put("attention.sliding_window", u32(window))
    return keys


def n_rotating(config: Document, rope: Rope) -> int:
    """Rows of a head that rotate."""
    return int(rope.partial * hidden_size(config)) // n_heads(config)


def attention_factor(config: Document, rope: Rope) -> float:
    """What queries and keys are multiplied with where the context is extended."""
    if rope.original < 2:
        raise rope.parameters.wrong("original_max_position_embeddings", rope.original, "2 or more")
    scale = config.integer("max_position_embeddings") / rope.original
    return math.sqrt(1 + math.log(scale) / math.log(rope.original)) if scale > 1 else 1.0


def factors(p: Parameters) -> Rules:
    """The divisors of frequencies in short and in long contexts, float32[rotating rows / 2]."""
    if p.config is None:
        return
    rope = Rope.of(p.config, ROPE)
    if rope.kind == "longrope":
        for kind in ("long", "short"):
            values = checked(rope, f"{kind}_factor", n_rotating(p.config, rope) // 2)
            yield Given(f"rope_factors_{kind}.weight", values.shape, values)


def checked(rope: Rope, key: str, n: int) -> NDArray[Any]:
    """A list of n numbers, float32[n]. Raises InvalidError (M-003)."""
    found = rope.parameters.items(key)
    if len(found) != n:
        raise rope.parameters.wrong(key, len(found), f"{n} numbers")
    for i, value in enumerate(found):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 3.4e38:
            raise rope.parameters.wrong(key, value, "a positive number", i)
    return np.asarray(found, np.float32)


def rules(p: Parameters) -> Rules:
    """Matrices stay fused."""
    yield from factors(p)
    yield from decoder.ends(p)
    qkv = (p.heads() + 2 * p.kv_heads()) * p.head_dim
    for i in range(p.n_layers):
        layer, block, wide = f"model.layers.{i}", f"blk.{i}", p.wide(i)
        yield from decoder.norms(p, i)
        for source, target, shape in (
            ("self_attn.qkv_proj", "attn_qkv", (qkv, p.hidden)),
            ("self_attn.o_proj", "attn_output", (p.hidden, p.heads(i) * p.head_dim)),
            ("mlp.gate_up_proj", "ffn_up", (2 * wide, p.hidden)),
            ("mlp.down_proj", "ffn_down", (p.hidden, wide)),
        ):
            yield same(f"{layer}.{source}.weight", f"{block}.{target}.weight", shape)


def rules_moe(p: Parameters) -> Rules:
    """Layer norms with biases, and experts."""
    yield from factors(p)
    yield from decoder.ends(p, norm_bias=True, head_bias=True)
    for i in range(p.n_layers):
        source = f"model.layers.{i}.block_sparse_moe"
        yield from decoder.norms(p, i, bias=True)
        yield from decoder.attention(p, i)
        yield from decoder.router(p, i, source=f"{source}.gate")
        yield from decoder.experts(p, i, source=f"{source}.experts", names=("w1", "w3", "w2"))


FACTORS = (r"rope_factors_(long|short)\.weight",)

ARCHITECTURES = (
    Architecture(
        name="phi3",
        classes=("Phi3ForCausalLM", "Phi4ForCausalLMV"),
        metadata=metadata,
        rules=rules,
        tokenizer=phi3_metadata,
        computed=FACTORS,
        skipped=OTHER_INPUTS,
    ),
    Architecture(
        name="phimoe",
        classes=("PhiMoEForCausalLM",),
        metadata=metadata_moe,
        rules=rules_moe,
        tokenizer=phi3_metadata,
        computed=FACTORS,
    ),
)
