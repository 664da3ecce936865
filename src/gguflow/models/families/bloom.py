"""BLOOM and GPT-NeoX (Pythia): queries, keys and values are fused, head by head."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import (
    GELU,
    Keys,
    head_dim,
    hidden_size,
    n_heads,
    n_layers,
    require_activation,
    usual_rope,
)
from gguflow.models.orders import Axes
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of BLOOM in llama.cpp's order."""
    keys = Keys("bloom", config)
    keys.integer("context_length", "seq_length", default=hidden_size(config), minimum=1)
    keys.put("embedding_length", u32(hidden_size(config)))
    keys.put("feed_forward_length", u32(4 * hidden_size(config)))
    keys.put("block_count", u32(n_layers(config)))
    keys.put("attention.head_count", u32(n_heads(config)))
    keys.put("attention.head_count_kv", u32(n_heads(config)))
    keys.number("attention.layer_norm_epsilon", "layer_norm_epsilon")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """BLOOM: a norm of the embeddings too."""
    yield from decoder.ends(
        p,
        embeddings="transformer.word_embeddings",
        norm="transformer.ln_f",
        norm_bias=True,
        may_lack_head=True,
    )
    yield from decoder.norm(p, "transformer.word_embeddings_layernorm", "token_embd_norm", bias=True)
    for i in range(p.n_layers):
        yield from block(p, i, f"transformer.h.{i}", "self_attention")


def block(p: Parameters, i: int, layer: str, attention: str) -> Rules:
    """A block with biases.

    p: hyper-parameters.
    i: number of the layer.
    layer: what its names begin with in the checkpoint.
    attention: what the names of attention go on with.
    """
    heads, width, target = p.heads(i), p.head_dim, f"blk.{i}"
    yield from decoder.norm(p, f"{layer}.input_layernorm", f"{target}.attn_norm", bias=True)
    yield from decoder.norm(p, f"{layer}.post_attention_layernorm", f"{target}.ffn_norm", bias=True)
    order = Axes((heads, 3, width), (1, 0, 2))
    fused = f"{layer}.{attention}.query_key_value"
    yield from linear(fused, f"{target}.attn_qkv", 3 * heads * width, p.hidden, bias=True, order=order)
    dense = f"{layer}.{attention}.dense"
    yield from linear(dense, f"{target}.attn_output", p.hidden, heads * width, bias=True)
    yield from linear(f"{layer}.mlp.dense_h_to_4h", f"{target}.ffn_up", p.wide(i), p.hidden, bias=True)
    yield from linear(f"{layer}.mlp.dense_4h_to_h", f"{target}.ffn_down", p.hidden, p.wide(i), bias=True)


def rename(name: str, config: Document) -> str:
    """The bare model's names lack the prefix of the model inside."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def metadata_neox(config: Document, directory: Path) -> Metadata:
    """The keys of GPT-NeoX in llama.cpp's order."""
    require_activation(config, GELU)
    keys = Keys("gptneox", config)
    config.applied.add("type-of-file")
    keys.integer("context_length", "max_position_embeddings", minimum=1)
    keys.put("embedding_length", u32(hidden_size(config)))
    keys.put("block_count", u32(n_layers(config)))
    keys.integer("feed_forward_length", "intermediate_size", minimum=1)
    usual_rope(keys, RopeOptions(kinds=("default",), partial=True))
    share = config.number("rotary_pct", 1.0)
    keys.put("rope.dimension_count", u32(int(share * head_dim(config))))
    keys.put("attention.head_count", u32(n_heads(config)))
    keys.put("use_parallel_residual", boolean(config.flag("use_parallel_residual", True)))
    keys.number("attention.layer_norm_epsilon", "layer_norm_eps")
    return keys.metadata


def rules_neox(p: Parameters) -> Rules:
    """GPT-NeoX: an output matrix of its own."""
    yield from decoder.ends(
        p,
        embeddings="gpt_neox.embed_in",
        norm="gpt_neox.final_layer_norm",
        head="embed_out",
        norm_bias=True,
    )
    for i in range(p.n_layers):
        yield from block(p, i, f"gpt_neox.layers.{i}", "attention")


REQUIRED = (*DECODER_KEYS[:-1], "attention.layer_norm_epsilon")

ARCHITECTURES = (
    Architecture(
        name="bloom",
        classes=("BloomForCausalLM", "BloomModel"),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        rename=rename,
        required=REQUIRED,
    ),
    Architecture(
        name="gptneox",
        classes=("GPTNeoXForCausalLM",),
        metadata=metadata_neox,
        rules=rules_neox,
        tokenizer=bpe_metadata,
        skipped=(r"gpt_neox\.layers\.\d+\.attention\.rotary_emb\..*",),
        required=REQUIRED,
    ),
)
