"""Qwen3 as a mixture of experts (Qwen3-30B-A3B, Qwen3-235B-A22B): a router and experts in every layer."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.qwen2 import tokenizer
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then the width of an expert."""
    keys = base_keys("qwen3moe", config)
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder of experts; llama.cpp does not support layers without experts (`mlp_only_layers`)."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.router(p, i)
        yield from decoder.experts(p, i, fused=True)


ARCHITECTURE = Architecture(
    name="qwen3moe",
    classes=("Qwen3MoeForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
)
