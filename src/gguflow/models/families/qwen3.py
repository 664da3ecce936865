"""Qwen3: Qwen2 without biases, with Q and K normalized per head, and with a separate head size."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.card import heading_text
from gguflow.models.documents import Document
from gguflow.models.families.qwen2 import tokenizer
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys. Raises UnsupportedError (M-008) for a reranker, and as `base_keys`."""
    if _is_reranker(config, directory):
        message = "Qwen3 rerankers are not supported: llama.cpp keeps only two rows of their output matrix"
        raise UnsupportedError(directory, Finding("M-008", message))
    return base_keys("qwen3", config).metadata | pooling_metadata("qwen3", directory)


def _is_reranker(config: Document, directory: Path) -> bool:
    """Whether this is a reranker, told as in llama.cpp's converter by its name or its card's heading."""
    names = (directory.resolve().name, config.text("_name_or_path", ""))
    heading = heading_text(directory).lower()
    return any("qwen3-reranker" in name.lower() for name in names) or "# qwen3-reranker" in heading


def rules(p: Parameters) -> Rules:
    """A decoder with norms of heads; a Qwen3Model (an embedding model) has no output matrix."""
    yield from decoder.ends(p, may_lack_head=p.config is None or class_name(p.config) == "Qwen3Model")
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.feed_forward(p, i)


ARCHITECTURE = Architecture(
    name="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
)
