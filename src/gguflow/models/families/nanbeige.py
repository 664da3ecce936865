"""Nanbeige 4.2: Llama whose blocks may be passed through several times."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.families.llama import llama_keys, rules, tokenizer


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys, and how often all blocks are passed through."""
    keys = llama_keys("nanbeige", config)
    keys.put("num_loops", u32(max(config.integer("num_loops", 1, minimum=0), 1)))
    keys.put("skip_loop_final_norm", boolean(config.flag("skip_loop_final_norm", False)))
    return keys.metadata


ARCHITECTURE = Architecture(
    name="nanbeige",
    classes=("NanbeigeForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
)
