"""BitNet b1.58: Llama with norms before the last matrix of each part, and weights of three values."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, string
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import Rule, same
from gguflow.models.ternary import ternary
from gguflow.models.tokenizers.variants import only_sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and that there is no scaling of frequencies; llama.cpp reads no activation."""
    keys = base_keys("bitnet", config, activation=None, rope=RopeOptions(kinds=("default",)))
    keys.put("rope.scaling.type", string("linear"))
    keys.put("rope.scaling.factor", f32(1.0))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Matrices of attention and of networks are rounded; rows are not reordered ("neox" rope)."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norms(p, i)
        for old, new, n in (
            ("self_attn.inner_attn_ln", "attn_sub_norm", p.heads(i) * p.head_dim),
            ("self_attn.attn_sub_norm", "attn_sub_norm", p.heads(i) * p.head_dim),
            ("mlp.ffn_layernorm", "ffn_sub_norm", p.wide(i)),
            ("mlp.ffn_sub_norm", "ffn_sub_norm", p.wide(i)),
        ):
            yield same(f"{layer}.{old}.weight", f"{block}.{new}.weight", (n,))
        for rule in (*decoder.attention(p, i), *decoder.feed_forward(p, i)):
            yield ternary(rule) if isinstance(rule, Rule) else rule


ARCHITECTURE = Architecture(
    name="bitnet",
    classes=("BitNetForCausalLM", "BitnetForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=only_sentencepiece_metadata,
)
