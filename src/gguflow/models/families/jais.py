"""Jais: GPT-2's blocks with a gated network, positions by bias (ALiBi), and scaled embeddings and outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata, f32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, require_activation
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Rule, mapped, same, scaled, transposed
from gguflow.models.tokenizers.bpe import bpe_metadata

SLOPES = "transformer.relative_pe.slopes"


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    require_activation(config, ("swiglu",))
    message = "llama.cpp knows positions by bias only in this family of models"
    config.require("position_embedding_type", ("alibi",), "M-009", message)
    keys = Keys("jais", config)
    keys.integer("block_count", "n_layer", minimum=1)
    keys.integer("context_length", "n_positions", minimum=1)
    keys.integer("embedding_length", "n_embd", minimum=1)
    keys.integer("feed_forward_length", "n_inner", minimum=1)
    keys.integer("attention.head_count", "n_head", minimum=1)
    keys.number("attention.layer_norm_epsilon", "layer_norm_epsilon")
    return keys.metadata


def embeddings_scale(config: Document) -> float:
    """What embeddings are multiplied with. Raises InvalidError (M-002, M-003)."""
    return config.number(config.first(("mup_embeddings_scale",)) or "embeddings_scale")


def outputs_scale(config: Document) -> float:
    """What outputs are multiplied with. Raises InvalidError (M-002, M-003)."""
    if "mup_output_alpha" in config:
        return config.number("mup_output_alpha") * config.number("mup_width_scale")
    return config.number("width_scale")


def multiplied(p: Parameters, rule: Rule, factor: float | None) -> Rule:
    """A rule whose weights are multiplied; there is no way back, since a file does not have the factor."""
    if factor is None:
        return mapped(rule, lambda numbers: numbers, None)
    return mapped(rule, lambda numbers: scaled(numbers, factor), None)


def rules(p: Parameters) -> Rules:
    """Matrices are stored as [in, out]."""
    inputs = None if p.config is None else embeddings_scale(p.config)
    outputs = None if p.config is None else outputs_scale(p.config)
    shape = (p.n_tokens, p.hidden)
    yield multiplied(p, same("transformer.wte.weight", "token_embd.weight", shape), inputs)
    yield multiplied(p, same("lm_head.weight", "output.weight", shape, required=False), outputs)
    yield from decoder.norm(p, "transformer.ln_f", "output_norm", bias=True)
    for i in range(p.n_layers):
        layer, block, wide = f"transformer.h.{i}", f"blk.{i}", p.wide(i)
        yield from decoder.norm(p, f"{layer}.ln_1", f"{block}.attn_norm", bias=True)
        yield from decoder.norm(p, f"{layer}.ln_2", f"{block}.ffn_norm", bias=True)
        for source, target, n_out, n_in in (
            ("attn.c_attn", "attn_qkv", 3 * p.hidden, p.hidden),
            ("attn.c_proj", "attn_output", p.hidden, p.hidden),
            ("mlp.c_fc", "ffn_up", wide, p.hidden),
            ("mlp.c_fc2", "ffn_gate", wide, p.hidden),
            ("mlp.c_proj", "ffn_down", p.hidden, wide),
        ):
            yield transposed(f"{layer}.{source}.weight", f"{block}.{target}.weight", (n_out, n_in))
            yield same(f"{layer}.{source}.bias", f"{block}.{target}.bias", (n_out,))


def measure(found: Mapping[str, NDArray[np.float32]], p: Parameters) -> Metadata:
    """The greatest bias, of which the first head's slope is made; 8 is usual."""
    bias = 8.0
    if SLOPES in found and found[SLOPES].size and 0 < (first := float(found[SLOPES].reshape(-1)[0])) < 1:
        bias = float(-round(math.log2(first) * 2 ** math.floor(math.log2(p.heads()))))
    return {"jais.attention.max_alibi_bias": f32(bias)}


ARCHITECTURE = Architecture(
    name="jais",
    classes=("JAISLMHeadModel",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    skipped=(r"transformer\.h\.\d+\.attn\.bias",),
    measured=(r"transformer\.relative_pe\.slopes",),
    measure=measure,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
