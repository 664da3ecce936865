"""GroveMoE: experts in groups, each group with a smaller expert of its own."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import stack
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for experts and groups."""
    keys = base_keys("grovemoe", config)
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    width = config.integer("head_dim", 128)
    said = config.integer("parallel_expert_size", width)
    if said != width:
        config.applied.add("width-of-groups")
    keys.put("expert_chunk_feed_forward_length", u32(said))
    keys.put("experts_per_group", u32(2))
    keys.put("expert_group_scale", f32(0.05))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder of experts with norms of heads."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.router(p, i)
        yield from decoder.experts(p, i)
        n = p.n_experts // max(p.integer("experts_per_group"), 1)
        wide = p.integer("expert_chunk_feed_forward_length")
        for kind, shape in (("gate", (wide, p.hidden)), ("up", (wide, p.hidden)), ("down", (p.hidden, wide))):
            each = [f"model.layers.{i}.mlp.chunk_experts.{x}.{kind}_proj.weight" for x in range(n)]
            yield stack(each, f"blk.{i}.ffn_{kind}_chexps.weight", shape)


ARCHITECTURE = Architecture(
    name="grovemoe",
    classes=("GroveMoeForCausalLM", "modeling_grove_moe.GroveMoeForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=(*DECODER_KEYS, "experts_per_group", "expert_chunk_feed_forward_length"),
    skipped=(r".*\.expert_bias",),
)
