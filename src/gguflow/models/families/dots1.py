"""dots.llm1: Qwen3's attention, and experts as DeepSeek has them."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder, mixture
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and those of experts."""
    keys = base_keys("dots1", config)
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    keys.put("leading_dense_block_count", u32(mixture.n_dense(config, default=0) or 0))
    keys.integer("expert_shared_count", "n_shared_experts")
    keys.number("expert_weights_scale", "routed_scaling_factor")
    keys.flag("expert_weights_norm", "norm_topk_prob")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Dense blocks, then blocks of experts; norms of heads."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        if mixture.is_dense(p, i):
            yield from decoder.feed_forward(p, i)
        else:
            yield from mixture.rules(p, i)


ARCHITECTURE = Architecture(
    name="dots1",
    classes=("Dots1ForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
