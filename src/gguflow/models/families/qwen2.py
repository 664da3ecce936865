"""Qwen2 and Qwen2.5: Llama's blocks with biases on Q, K and V; rows are not reordered ("neox" rope)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and how an embedding model pools."""
    return base_keys("qwen2", config).metadata | pooling_metadata("qwen2", directory)


def rules(p: Parameters) -> Rules:
    """A decoder; a bare Qwen2Model has no output matrix."""
    yield from decoder.ends(p, may_lack_head=p.config is None or class_name(p.config) == "Qwen2Model")
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, qkv_bias=True)
        yield from decoder.feed_forward(p, i)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.model, or from tokenizer.json."""
    return sentencepiece_metadata(files) or bpe_metadata(files, ("tokenizer.json", "tokenizer.model"))


ARCHITECTURE = Architecture(
    name="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
)
