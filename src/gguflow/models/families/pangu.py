"""openPangu Embedded: grouped-query attention with biases; rows are not reordered ("neox" rope)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.variants import spaced_sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and the width of a head."""
    keys = base_keys("pangu-embedded", config)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        keys.put(key, u32(head_dim(config)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder; attention may have biases."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i)
        yield from decoder.feed_forward(p, i)


def rename(name: str, config: Document) -> str:
    """An output matrix that is that of the embeddings is set apart."""
    is_double = name == "lm_head.weight" and config.flag("tie_word_embeddings", False)
    return "tied.weight" if is_double else name


ARCHITECTURE = Architecture(
    name="pangu-embedded",
    classes=("PanguEmbeddedForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=spaced_sentencepiece_metadata,
    rename=rename,
    skipped=(r"tied\.weight",),
    required=DECODER_KEYS,
)
