"""PLM: latent attention as it is trained, and a network without gate (ReLU squared)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder, mla
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those of latent attention."""
    keys = base_keys("plm", config, activation=("relu2",))
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    rotated = config.integer("qk_rope_head_dim")
    keys.put("attention.kv_lora_rank", u32(config.integer("kv_lora_rank")))
    keys.put("attention.key_length", u32(config.integer("qk_nope_head_dim") + rotated))
    keys.put("attention.value_length", u32(config.integer("v_head_dim")))
    keys.put("rope.dimension_count", u32(rotated))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder with latent attention."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from mla.unabsorbed_rules(p, i)
        yield from decoder.feed_forward(p, i, names=("", "up_proj", "down_proj"), bias=False)


ARCHITECTURE = Architecture(
    name="plm",
    classes=("PLMForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
