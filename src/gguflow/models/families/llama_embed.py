"""Llama-Embed-Nemotron: Llama that sees the whole text, without an output matrix."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.families.llama import llama_keys, rules, tokenizer


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys."""
    return llama_keys("llama-embed", config).metadata


ARCHITECTURE = Architecture(
    name="llama-embed",
    classes=("LlamaBidirectionalModel",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
)
