"""Phi-1, 1.5 and 2: attention and network side by side behind one norm, biases everywhere."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import (
    GELU,
    Keys,
    four_times,
    hidden_size,
    n_heads,
    n_kv_heads,
    n_layers,
    require_activation,
    usual_rope,
)
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    require_activation(config, GELU)
    keys = Keys("phi2", config)
    keys.integer("context_length", "n_positions", "max_position_embeddings", minimum=1)
    keys.put("embedding_length", u32(hidden_size(config)))
    four_times(keys, "intermediate_size", "n_inner")
    keys.put("block_count", u32(n_layers(config)))
    heads = n_heads(config)
    keys.put("attention.head_count", u32(heads))
    keys.put("attention.head_count_kv", u32(n_kv_heads(config)))
    if n_kv_heads(config) != heads:
        config.applied.add("key-heads")
    keys.number("attention.layer_norm_epsilon", "layer_norm_epsilon", "layer_norm_eps")
    rope = usual_rope(keys, RopeOptions(kinds=("default",), partial=True))
    keys.put("rope.dimension_count", u32(int(rope.partial * hidden_size(config)) // heads))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder with one norm in each block."""
    yield from decoder.ends(p, norm="model.final_layernorm", norm_bias=True, head_bias=True)
    for i in range(p.n_layers):
        layer = f"model.layers.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"blk.{i}.attn_norm", bias=True)
        names = ("q_proj", "k_proj", "v_proj", "dense")
        yield from decoder.attention(p, i, names=names, qkv_bias=True, output_bias=True)
        yield from decoder.feed_forward(p, i, names=("", "fc1", "fc2"), bias=True)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Byte-level BPE without a token before a text."""
    return {"tokenizer.ggml.add_bos_token": boolean(False)} | bpe_metadata(files)


ARCHITECTURE = Architecture(
    name="phi2",
    classes=("PhiForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
