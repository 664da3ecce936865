"""OLMoE: experts in every block; queries and keys are normalized as a whole."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import same
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys."""
    return base_keys("olmoe", config).metadata


def rules(p: Parameters) -> Rules:
    """A decoder of experts."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        yield from whole_norms(p, i)
        yield from decoder.router(p, i)
        yield from decoder.experts(p, i, fused=True)


def whole_norms(p: Parameters, i: int) -> Rules:
    """Norms of all queries and of all keys.

    p: hyper-parameters.
    i: number of the block.
    """
    source, block = f"model.layers.{i}.self_attn", f"blk.{i}"
    for x, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
        yield same(f"{source}.{x}_norm.weight", f"{block}.attn_{x}_norm.weight", (n * p.head_dim,))


ARCHITECTURE = Architecture(
    name="olmoe",
    classes=("OlmoeForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
