"""JetBrains' Mellum 2: Qwen3's experts, with windows that slide in some layers."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.families.qwen3moe import rules
from gguflow.models.keys import base_keys
from gguflow.models.rope import RopeOptions
from gguflow.models.sliding import sliding_window
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then the width of an expert and the windows."""
    keys = base_keys("mellum", config, rope=RopeOptions(separate=True))
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    if config.flag("use_sliding_window", True) and config.value("sliding_window") is not None:
        sliding_window(keys)
    return keys.metadata


ARCHITECTURE = Architecture(
    name="mellum",
    classes=("MellumForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
