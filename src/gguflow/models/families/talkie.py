"""Talkie: norms without weights, gains in their place, and rotary embeddings that turn the other way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata, f32
from gguflow.errors import Finding, InvalidError
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Part, Rule, linear, reshaped, same
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.views import Map, Numbers
from gguflow.sources.base import json_path

GAIN = "lm_head_gain.w_g"
"""The factor of all logits, a tensor of one number."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys; the epsilon of norms is torch's default."""
    keys = base_keys("talkie", config)
    keys.put("attention.layer_norm_rms_epsilon", f32(float(np.finfo(np.float32).eps)))
    return keys.metadata


def measure(found: Mapping[str, NDArray[np.float32]], p: Parameters) -> Metadata:
    """The factor of logits. Raises InvalidError (M-010) if it is missing."""
    if GAIN not in found or found[GAIN].size != 1:
        message = f"{GAIN}, the factor of logits, is missing, or is not one number"
        raise InvalidError(p.path, Finding("M-010", message, json_path(GAIN)))
    return {"talkie.logit_scale": f32(float(found[GAIN].reshape(-1)[0]))}


def rules(p: Parameters) -> Rules:
    """A decoder; the second halves of the heads of queries and keys are negated."""
    hidden, wide, n = p.hidden, p.wide(), p.heads() * p.head_dim
    n_keys = p.kv_heads() * p.head_dim
    yield same("model.embed.weight", "token_embd.weight", (p.n_tokens, hidden))
    for name in ("lm_head", "lm_head.weight"):
        yield same(name, "output.weight", (p.n_tokens, hidden))
    for i in range(p.n_layers):
        layer, block = f"model.blocks.{i}", f"blk.{i}"
        yield _turned(f"{layer}.attn.attn_query.weight", f"{block}.attn_q.weight", (n, hidden), p.head_dim)
        key = f"{block}.attn_k.weight"
        yield _turned(f"{layer}.attn.attn_key.weight", key, (n_keys, hidden), p.head_dim)
        for source, target, n_out, n_in in (
            ("attn.attn_value", "attn_v", n_keys, hidden),
            ("attn.attn_resid", "attn_output", hidden, n),
            ("mlp.mlp_gate", "ffn_gate", wide, hidden),
            ("mlp.mlp_linear", "ffn_up", wide, hidden),
            ("mlp.mlp_resid", "ffn_down", hidden, wide),
        ):
            yield from linear(f"{layer}.{source}", f"{block}.{target}", n_out, n_in, bias=False)
        gains = f"{block}.attn_q_norm.weight"
        yield reshaped(f"{layer}.attn.head_gain.head_g", gains, (p.heads(),), (p.heads(), 1))
        for source, target in (
            ("attn_gain", "attn_output.scale"),
            ("mlp_gain", "ffn_down.scale"),
            ("embed_skip", "layer_output_scale.weight"),
        ):
            yield same(f"{layer}.{source}.a_g", f"{block}.{target}", (1,))


def _turned(source: str, target: str, shape: tuple[int, int], head_dim: int) -> Rule:
    """A matrix whose rows in the second half of each head are negated; that is its own inverse."""
    n_in = shape[1]

    def negated(numbers: Numbers, first: int) -> Numbers:
        rows = (first + np.arange(len(numbers))) // n_in
        signs = np.where(rows % head_dim < head_dim // 2, 1, -1).astype(numbers.dtype)
        product: Numbers = numbers * signs
        return product

    return Rule(
        (Part(source, shape),),
        (Part(target, shape),),
        lambda views: (Map(views[0], negated),),
        lambda views: (Map(views[0], negated),),
    )


ARCHITECTURE = Architecture(
    name="talkie",
    classes=("TalkieForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    measured=(r"lm_head_gain\.w_g",),
    measure=measure,
)
