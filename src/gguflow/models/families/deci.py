"""Nvidia's Nemotron-51B and 253B, and DeciLM: Llama with other sizes, or parts missing, in each layer."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies
from gguflow.models.keys import (
    SILU,
    Keys,
    base_keys,
    head_dim,
    hidden_size,
    n_heads,
    n_layers,
    require_activation,
)
from gguflow.models.parameters import Parameters
from gguflow.models.rope import LLAMA3, Rope, rope_metadata
from gguflow.models.rules import same
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import sentencepiece_json_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order; sizes are arrays with one number for each layer."""
    require_activation(config, SILU)
    if "block_configs" in config:
        keys = of_blocks(config)
    else:
        keys = base_keys("deci", config, rope=LLAMA3)
        keys.integers("attention.head_count_kv", "num_key_value_heads_per_layer")
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("rope.dimension_count", u32(head_dim(config)))
    return keys.metadata


def of_blocks(config: Document) -> Keys:
    """The keys of a model whose config.json describes each block. Raises InvalidError (M-002, M-003)."""
    keys, heads = Keys("deci", config), n_heads(config)
    all_heads, all_kv_heads, widths = [], [], []
    for block in config.sections("block_configs"):
        attention, network = block.section("attention"), block.section("ffn")
        group = attention.value("n_heads_in_group")
        has_heads = group is not None or attention.flag("replace_with_linear", False)
        all_heads.append(heads if has_heads else 0)
        all_kv_heads.append(0 if group is None else heads // attention.integer("n_heads_in_group"))
        has_network = network.value("ffn_mult") is not None
        widths.append(wide(network.number("ffn_mult"), hidden_size(config)) if has_network else 0)
    if len(widths) != n_layers(config):
        raise config.wrong("block_configs", len(widths), f"one for each of {n_layers(config)} layers")
    keys.metadata |= rope_metadata("deci", Rope.of(config, LLAMA3))
    keys.layers("attention.head_count_kv", all_kv_heads)
    keys.layers("attention.head_count", all_heads)
    keys.layers("feed_forward_length", widths)
    keys.put("block_count", u32(n_layers(config)))
    keys.integer("context_length", "max_position_embeddings", minimum=1)
    keys.put("embedding_length", u32(hidden_size(config)))
    keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    keys.put("attention.key_length", u32(hidden_size(config) // heads))
    keys.put("attention.value_length", u32(hidden_size(config) // heads))
    return keys


def wide(multiplier: float, hidden: int) -> int:
    """Width of a network: two thirds of four times the model's as multiplied, to a multiple of 256."""
    return -(-int(2 * multiplier * hidden / 3) // 256) * 256


def rules(p: Parameters) -> Rules:
    """Attention, one matrix in its place, or neither; a network, or none."""
    yield from frequencies(p)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        if p.heads(i):
            yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm")
            if p.kv_heads(i):
                yield from decoder.attention(p, i, rotate=True)
            else:
                source, target = f"{layer}.self_attn.linear_attn.weight", f"{block}.attn_output.weight"
                yield same(source, target, (p.hidden, p.hidden))
        if p.wide(i):
            yield from decoder.norm(p, f"{layer}.post_attention_layernorm", f"{block}.ffn_norm")
            yield from decoder.feed_forward(p, i)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Llama 3's vocabulary, or SentencePiece from tokenizer.json."""
    found = sentencepiece_json_metadata(files)
    return bpe_metadata(files) if found is None else found


ARCHITECTURE = Architecture(
    name="deci",
    classes=("DeciLMForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
    required=DECODER_KEYS,
)
