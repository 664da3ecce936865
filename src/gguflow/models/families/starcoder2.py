"""StarCoder 2: grouped-query attention with biases everywhere, and a network without gate."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GELU, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys."""
    return base_keys("starcoder2", config, activation=GELU).metadata


def rules(p: Parameters) -> Rules:
    """A decoder whose output matrix may be that of the embeddings."""
    yield from decoder.ends(p, norm_bias=True)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i, bias=True)
        yield from decoder.attention(p, i)
        yield from decoder.feed_forward(p, i, names=("", "c_fc", "c_proj"))


ARCHITECTURE = Architecture(
    name="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
