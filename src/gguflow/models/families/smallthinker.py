"""SmallThinker: experts with ReLU, whose router comes before attention."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GATING_FUNCTIONS, MAX_EXPERTS, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for experts and for the window; files name no activation, or another one."""
    keys = base_keys("smallthinker", config, activation=None)
    n = config.integer("moe_num_primary_experts", maximum=MAX_EXPERTS)
    keys.put("expert_count", u32(n))
    keys.put("expert_used_count", u32(config.integer("moe_num_active_primary_experts", maximum=n)))
    wide = config.integer("moe_ffn_hidden_size")
    keys.put("expert_feed_forward_length", u32(wide))
    keys.put("feed_forward_length", u32(wide))
    function = "softmax" if config.flag("moe_primary_router_apply_softmax", False) else "sigmoid"
    keys.put("expert_gating_func", u32(GATING_FUNCTIONS[function]))
    window = config.integer("sliding_window_size", 0, minimum=0)
    if window and any(config.items("sliding_window_layout")):
        keys.put("attention.sliding_window", u32(window))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder of experts."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        source = f"model.layers.{i}.block_sparse_moe"
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i)
        yield from decoder.router(p, i, source=f"{source}.primary_router")
        yield from decoder.experts(p, i, source=f"{source}.experts", names=("gate", "up", "down"))


ARCHITECTURE = Architecture(
    name="smallthinker",
    classes=("SmallThinkerForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
