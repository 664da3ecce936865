"""Jais 2: layer norms and biases everywhere, a network without gate with the square of ReLU."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and the width of a head."""
    keys = base_keys("jais2", config, activation=("relu2",))
    keys.put("rope.dimension_count", u32(head_dim(config)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder; rows are not reordered ("neox" rope)."""
    yield from decoder.ends(p, norm_bias=True)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i, bias=True)
        yield from decoder.attention(p, i)
        yield from decoder.feed_forward(p, i, names=("", "up_proj", "down_proj"))


ARCHITECTURE = Architecture(
    name="jais2",
    classes=("Jais2ForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
