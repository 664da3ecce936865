"""Seed-OSS: grouped-query attention with biases; rows are not reordered ("neox" rope)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys."""
    return base_keys("seed_oss", config).metadata


def rules(p: Parameters) -> Rules:
    """A decoder whose second norm comes after attention in llama.cpp's names."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.post_attention_layernorm", f"{block}.post_attention_norm")
        yield from decoder.attention(p, i)
        yield from decoder.feed_forward(p, i)


ARCHITECTURE = Architecture(
    name="seed_oss",
    classes=("SeedOssForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
