"""Apertus: Llama with norms of heads, and a network without gate whose activation, xIELU, is learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata, ValueType, array
from gguflow.errors import Finding, InvalidError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies, llama_keys, tokenizer
from gguflow.models.parameters import Parameters
from gguflow.sources.base import json_path

NUMBERS = ("alpha_n", "alpha_p", "beta", "eps")


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys."""
    return llama_keys("apertus", config, activation=("xielu",)).metadata


def rules(p: Parameters) -> Rules:
    """Rows are not reordered ("neox" rope)."""
    yield from frequencies(p)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.attention_layernorm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.feedforward_layernorm", f"{block}.ffn_norm")
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.feed_forward(p, i, names=("", "up_proj", "down_proj"))


def measure(found: Mapping[str, NDArray[np.float32]], p: Parameters) -> Metadata:
    """The four numbers of each layer's activation. Raises InvalidError (M-010) if one is missing."""
    keys: Metadata = {}
    for kind in NUMBERS:
        values = []
        for i in range(p.n_layers):
            name = f"model.layers.{i}.mlp.act_fn.{kind}"
            if name not in found or found[name].size != 1:
                message = f"{name}, a number of the activation, is missing"
                raise InvalidError(p.path, Finding("M-010", message, json_path(name)))
            values.append(float(found[name].reshape(-1)[0]))
        keys[f"xielu.{kind}"] = array(ValueType.FLOAT32, values)
    return keys


ARCHITECTURE = Architecture(
    name="apertus",
    classes=("ApertusForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
    measured=(r"model\.layers\.\d+\.mlp\.act_fn\.(alpha_n|alpha_p|beta|eps)",),
    measure=measure,
)
