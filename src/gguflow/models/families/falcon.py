"""Falcon: attention and network side by side; queries, keys and values are fused, group by group."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import (
    GELU,
    Keys,
    four_times,
    hidden_size,
    n_heads,
    n_layers,
    require_activation,
    usual_rope,
)
from gguflow.models.orders import Groups
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, optional, ordered, same
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    require_activation(config, GELU)
    keys = Keys("falcon", config)
    keys.put("context_length", u32(2048))
    keys.put("tensor_data_layout", string("jploski"))
    keys.put("embedding_length", u32(hidden_size(config)))
    four_times(keys, "ffn_hidden_size")
    keys.put("block_count", u32(n_layers(config)))
    keys.put("attention.head_count", u32(n_heads(config)))
    keys.integer("attention.head_count_kv", "num_kv_heads", "n_head_kv", default=1, minimum=1)
    keys.number("attention.layer_norm_epsilon", "layer_norm_epsilon")
    usual_rope(keys, RopeOptions(kinds=("default",)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """One norm (7B), or one for each part (40B)."""
    head = "lm_head"
    yield from decoder.ends(
        p,
        embeddings="transformer.word_embeddings",
        norm="transformer.ln_f",
        head=head,
        norm_bias=True,
        may_lack_head=True,
    )
    heads, kv_heads, width = p.heads(), p.kv_heads(), p.head_dim
    order = Groups((heads // max(kv_heads, 1) * width, width, width), kv_heads)
    for i in range(p.n_layers):
        layer, block = f"transformer.h.{i}", f"blk.{i}"
        names = ("input_layernorm", "ln_mlp")
        for source in names if kv_heads == 1 else names[::-1]:
            yield from decoder.norm(p, f"{layer}.{source}", f"{block}.attn_norm", bias=True)
        yield from optional(decoder.norm(p, f"{layer}.ln_attn", f"{block}.attn_norm_2", bias=True))
        fused = ((heads + 2 * kv_heads) * width, p.hidden)
        name = f"{layer}.self_attention.query_key_value.weight"
        yield ordered(name, f"{block}.attn_qkv.weight", fused, order)
        source = f"{layer}.self_attention.dense"
        yield from linear(source, f"{block}.attn_output", p.hidden, heads * width, bias=False)
        yield same(f"{layer}.mlp.dense_h_to_4h.weight", f"{block}.ffn_up.weight", (p.wide(i), p.hidden))
        yield same(f"{layer}.mlp.dense_4h_to_h.weight", f"{block}.ffn_down.weight", (p.hidden, p.wide(i)))


ARCHITECTURE = Architecture(
    name="falcon",
    classes=("FalconForCausalLM", "RWForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
