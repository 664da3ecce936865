"""gpt-oss in 16 or 32 bits: experts with biases, gate and up interleaved, and a sink for every head."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, same, split_inside, transposed
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(read=frozenset(("truncate",)))


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, the sliding window, and the width of an expert."""
    keys = base_keys("gpt-oss", config, rope=ROPE)
    keys.integer("attention.sliding_window", "sliding_window")
    keys.integer("expert_feed_forward_length", "intermediate_size", minimum=1)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder of experts, whose matrices are stored transposed."""
    yield from decoder.ends(p)
    n, wide = p.n_experts, p.expert_wide
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}", f"blk.{i}"
        for name, target in (
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "post_attention_norm"),
        ):
            yield from decoder.norm(p, f"{source}.{name}", f"{block}.{target}")
        yield from decoder.attention(p, i)
        yield same(f"{source}.self_attn.sinks", f"{block}.attn_sinks.weight", (p.heads(i),))
        yield from linear(f"{source}.mlp.router", f"{block}.ffn_gate_inp", n, p.hidden, bias=True)
        experts = f"{source}.mlp.experts"
        for suffix, kind, n_in in (("", "weight", p.hidden), ("_bias", "bias", 0)):
            targets = [(f"{block}.ffn_{part}_exps.{kind}", wide) for part in ("gate", "up")]
            yield split_inside(
                f"{experts}.gate_up_proj{suffix}", targets, n, n_in, transpose=n_in > 0, interleaved=True
            )
        yield transposed(f"{experts}.down_proj", f"{block}.ffn_down_exps.weight", (n, p.hidden, wide))
        yield same(f"{experts}.down_proj_bias", f"{block}.ffn_down_exps.bias", (n, p.hidden))


ARCHITECTURE = Architecture(
    name="gpt-oss",
    classes=("GptOssForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
