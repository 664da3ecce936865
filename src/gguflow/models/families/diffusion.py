"""Dream and RND1: models that fill in a text everywhere at once, Qwen2 and Qwen3-MoE without causality."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.families import qwen2, qwen3moe
from gguflow.models.families.qwen2moe import expert_widths
from gguflow.models.keys import base_keys
from gguflow.models.pooling import pooling_metadata
from gguflow.models.tokenizers.bpe import bpe_metadata


def dream_metadata(config: Document, directory: Path) -> Metadata:
    """The base keys; attention is not causal."""
    keys = base_keys("dream", config)
    keys.metadata |= pooling_metadata("dream", directory)
    keys.put("attention.causal", boolean(False))
    return keys.metadata


def rnd1_metadata(config: Document, directory: Path) -> Metadata:
    """The base keys and the widths of experts; attention is not causal."""
    keys = base_keys("rnd1", config)
    expert_widths(keys)
    keys.put("attention.causal", boolean(False))
    return keys.metadata


ARCHITECTURES = (
    Architecture(
        name="dream",
        classes=("DreamModel",),
        metadata=dream_metadata,
        rules=qwen2.rules,
        tokenizer=qwen2.tokenizer,
    ),
    Architecture(
        name="rnd1",
        classes=("RND1",),
        metadata=rnd1_metadata,
        rules=qwen3moe.rules,
        tokenizer=bpe_metadata,
    ),
)
