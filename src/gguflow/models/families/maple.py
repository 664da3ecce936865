"""Maple: Qwen3's experts, clamped, with windows that slide; other layers do not rotate."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.families.glm4moe import rotated
from gguflow.models.families.qwen3moe import rules
from gguflow.models.keys import base_keys, n_layers
from gguflow.models.rope import RopeOptions
from gguflow.models.sliding import sliding_window
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(partial=True)
LIMIT = 7.0
"""Up to which the gates of experts count; the program that trained the model has it, no configuration."""

EXPECTED = (
    ("num_shared_experts", 0, 0),
    ("norm_topk_prob", True, True),
    ("nope_on_global_attention", True, False),
)
"""Settings with the one value that llama.cpp has, and the value if config.json does not say it."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for windows and experts."""
    for key, expected, default in EXPECTED:
        found = config.value(key)
        if (default if found is None else found) != expected:
            message = f"llama.cpp computes {key} = {expected} in all models of this family"
            finding = Finding("M-009", message, config.at(key), found=found, expected=expected)
            raise UnsupportedError(config.file, finding)
    keys = base_keys("maple", config, rope=ROPE)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("rope.dimension_count", u32(rotated(config, ROPE, 1.0)))
    sliding_window(keys)
    keys.put("expert_feed_forward_length", u32(config.integer("moe_intermediate_size")))
    keys.layers("swiglu_clamp_exp", [LIMIT] * n_layers(config))
    return keys.metadata


ARCHITECTURE = Architecture(
    name="maple",
    classes=("MapleForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
