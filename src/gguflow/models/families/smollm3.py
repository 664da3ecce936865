"""SmolLM3: Llama whose every fourth layer does not rotate."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.families.llama import llama_keys, rules, tokenizer
from gguflow.models.keys import n_layers


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys. Raises UnsupportedError (M-005) where other layers rotate, and as `base_keys`."""
    rotating = config.items("no_rope_layers")[: n_layers(config)]
    expected = [int((i + 1) % 4 != 0) for i in range(len(rotating))]
    if rotating != expected:
        message = "llama.cpp rotates all layers of this family but every fourth"
        finding = Finding("M-005", message, config.at("no_rope_layers"), found=rotating, expected=expected)
        raise UnsupportedError(config.file, finding)
    return llama_keys("smollm3", config).metadata


ARCHITECTURE = Architecture(
    name="smollm3",
    classes=("SmolLM3ForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
)
