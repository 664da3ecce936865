"""Maincoder: Llama with norms of heads, whose rows are not reordered ("neox" rope)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and the width of a head where it is said."""
    keys = base_keys("maincoder", config)
    if "head_dim" in config:
        keys.put("rope.dimension_count", u32(head_dim(config)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder with norms of heads."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.feed_forward(p, i)


ARCHITECTURE = Architecture(
    name="maincoder",
    classes=("MaincoderForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
