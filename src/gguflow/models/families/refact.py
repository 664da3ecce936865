"""Refact: one head of keys, positions by bias (ALiBi), a gated network of a computed width."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear, split
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    keys, hidden = Keys("refact", config), config.integer("n_embd")
    keys.integer("context_length", "n_positions", minimum=1)
    keys.put("embedding_length", u32(hidden))
    keys.put("feed_forward_length", u32(-(-int(2 * 4 * hidden / 3) // 256) * 256))
    keys.integer("block_count", "n_layer", minimum=1)
    keys.integer("attention.head_count", "n_head", minimum=1)
    keys.put("attention.head_count_kv", u32(1))
    keys.number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Keys and values are one matrix, gate and up are one."""
    yield from decoder.ends(p, embeddings="transformer.wte", norm="transformer.ln_f", may_lack_head=True)
    for i in range(p.n_layers):
        layer, block, width = f"transformer.h.{i}", f"blk.{i}", p.head_dim
        yield from decoder.norm(p, f"{layer}.ln_1", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.ln_2", f"{block}.ffn_norm")
        rows = p.heads(i) * width
        yield from linear(f"{layer}.attn.q", f"{block}.attn_q", rows, p.hidden, bias=False)
        keys_values = [(f"{block}.attn_{kind}.weight", width) for kind in "kv"]
        yield split(f"{layer}.attn.kv.weight", keys_values, (p.hidden,))
        yield from linear(f"{layer}.attn.c_proj", f"{block}.attn_output", p.hidden, rows, bias=False)
        gate_up = [(f"{block}.ffn_{kind}.weight", p.wide(i)) for kind in ("gate", "up")]
        yield split(f"{layer}.mlp.gate_up_proj.weight", gate_up, (p.hidden,))
        yield from linear(f"{layer}.mlp.c_proj", f"{block}.ffn_down", p.hidden, p.wide(i), bias=False)


ARCHITECTURE = Architecture(
    name="refact",
    classes=("GPTRefactForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=DECODER_KEYS,
)
