"""Arcee AFM: Llama with a network without gate, whose activation is the square of ReLU."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies, llama_keys, tokenizer
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys, and how an embedding model pools."""
    keys = llama_keys("arcee", config, activation=("relu2",)).metadata
    return keys | pooling_metadata("arcee", directory)


def rules(p: Parameters) -> Rules:
    """Llama's blocks without the matrix of gates."""
    yield from frequencies(p)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, rotate=True)
        yield from decoder.feed_forward(p, i, names=("", "up_proj", "down_proj"))


ARCHITECTURE = Architecture(
    name="arcee",
    classes=("ArceeForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
)
