"""Qwen2 as a mixture of experts (Qwen1.5-MoE, Qwen2-57B-A14B): experts, and one that all tokens share."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import same
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and the widths of experts."""
    keys = base_keys("qwen2moe", config)
    expert_widths(keys)
    return keys.metadata


def expert_widths(keys: Keys) -> None:
    """The widths of experts and of the shared one, where config.json has them.

    keys: where they are put.

    Raises InvalidError (M-003).
    """
    keys.integer("expert_feed_forward_length", "moe_intermediate_size")
    keys.integer("expert_shared_feed_forward_length", "shared_expert_intermediate_size")


def rules(p: Parameters) -> Rules:
    """A decoder of experts, with biases on Q, K and V."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, qkv_bias=None if p.config is None else True)
        yield from decoder.router(p, i)
        yield from decoder.experts(p, i, fused=True)
        yield from shared_expert(p, i)


def shared_expert(p: Parameters, i: int, *, source: str = "model.layers.{i}.mlp") -> Rules:
    """The expert of all tokens, and its gate.

    p: hyper-parameters.
    i: number of the layer.
    source: what its names begin with in the checkpoint; {i} is the layer.
    """
    source, wide = source.replace("{i}", str(i)), p.integer("expert_shared_feed_forward_length")
    yield same(f"{source}.shared_expert_gate.weight", f"blk.{i}.ffn_gate_inp_shexp.weight", (1, p.hidden))
    yield from decoder.feed_forward(
        p, i, source=f"{source}.shared_expert", width=wide, suffix="_shexp", bias=False
    )


ARCHITECTURE = Architecture(
    name="qwen2moe",
    classes=("Qwen2MoeForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
