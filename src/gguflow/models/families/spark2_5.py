"""iFlytek's Spark X2.5: gated attention, windows that slide, and GELU."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.laguna import ROPE, rope_part
from gguflow.models.keys import base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.rope import FULL, SLIDING
from gguflow.models.rules import linear
from gguflow.models.sliding import sliding_window
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for windows, and how much of a head rotates."""
    for key, expected in (("gate_attn_act_mode", "sigmoid"), ("headwise_attn_output_gate", True)):
        if config.value(key) != expected:
            message = "llama.cpp computes a sigmoid for each head in all models of this family"
            finding = Finding("M-009", message, config.at(key), found=config.value(key), expected=expected)
            raise UnsupportedError(config.file, finding)
    keys = base_keys("spark2_5", config, activation=("gelu",), rope=ROPE)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    sliding_window(keys)
    for suffix, kind in (("", FULL), ("_swa", SLIDING)):
        part = rope_part(config, kind)
        if part is None:
            raise config.missing("rope_parameters")
        width = int(head_dim(config) * part.number("partial_rotary_factor"))
        keys.put(f"rope.dimension_count{suffix}", u32(width))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Q, K and V stay one matrix; a gate for each head."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}.self_attn", f"blk.{i}"
        n_qkv = (p.heads(i) + p.kv_heads(i)) * p.head_dim + p.kv_heads(i) * p.value_dim
        yield from decoder.norms(p, i)
        yield from linear(f"{source}.q_k_v_proj", f"{block}.attn_qkv", n_qkv, p.hidden, bias=False)
        yield from linear(f"{source}.g_proj", f"{block}.attn_gate", p.heads(i), p.hidden, bias=False)
        output = (p.hidden, p.heads(i) * p.value_dim)
        yield from linear(f"{source}.o_proj", f"{block}.attn_output", *output, bias=False)
        yield from decoder.feed_forward(p, i, bias=False)


ARCHITECTURE = Architecture(
    name="spark2_5",
    classes=("Spark2_5ForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
