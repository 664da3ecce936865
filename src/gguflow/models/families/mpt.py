"""MPT: positions by bias (ALiBi) or embeddings, norms without biases, fused queries, keys and values."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    keys, attention = Keys("mpt", config), config.section("attn_config")
    config.applied.add("type-of-file")
    keys.integer("context_length", "max_seq_len", minimum=1)
    keys.integer("embedding_length", "d_model", minimum=1)
    keys.integer("block_count", "n_layers", minimum=1)
    expansion = config.number("expansion_ratio", 4.0)
    if expansion != 4:
        raise config.wrong("expansion_ratio", expansion, "4, which llama.cpp assumes")
    keys.put("feed_forward_length", u32(4 * config.integer("d_model")))
    keys.integer("attention.head_count", "n_heads", minimum=1)
    if attention.integer("kv_n_heads", 0, minimum=0):
        keys.put("attention.head_count_kv", u32(attention.integer("kv_n_heads")))
    keys.put("attention.layer_norm_epsilon", f32(1e-5))
    if attention.value("clip_qkv") is not None:
        keys.put("attention.clamp_kqv", f32(attention.number("clip_qkv")))
    bias = attention.number("alibi_bias_max", 8.0) if attention.flag("alibi", False) else 0.0
    keys.put("attention.max_alibi_bias", f32(bias))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder that may have biases, and norms of queries and keys."""
    embeddings = "transformer.wte"
    yield from decoder.ends(p, embeddings=embeddings, norm="transformer.norm_f", may_lack_head=True)
    yield same("transformer.norm_f.bias", "output_norm.bias", (p.hidden,), required=False)
    positions = (p.integer("context_length"), p.hidden)
    yield same("transformer.wpe.weight", "position_embd.weight", positions, required=False)
    rows = (p.heads() + 2 * p.kv_heads()) * p.head_dim
    for i in range(p.n_layers):
        layer, block = f"transformer.blocks.{i}", f"blk.{i}"
        for source, target in (("norm_1", "attn_norm"), ("norm_2", "ffn_norm")):
            yield from decoder.norm(p, f"{layer}.{source}", f"{block}.{target}")
            yield same(f"{layer}.{source}.bias", f"{block}.{target}.bias", (p.hidden,), required=False)
        for kind, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            for end in ("weight", "bias"):
                source, target = f"{layer}.attn.{kind}_ln.{end}", f"{block}.attn_{kind}_norm.{end}"
                yield same(source, target, (n * p.head_dim,), required=False)
        for source, target, n_out, n_in in (
            ("attn.Wqkv", "attn_qkv", rows, p.hidden),
            ("attn.out_proj", "attn_output", p.hidden, p.heads(i) * p.head_dim),
            ("ffn.up_proj", "ffn_up", p.wide(i), p.hidden),
            ("ffn.down_proj", "ffn_down", p.hidden, p.wide(i)),
        ):
            yield from linear(f"{layer}.{source}", f"{block}.{target}", n_out, n_in)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Byte-level BPE; SEA-LION has tokenizer.model instead."""
    if files.tokenizer is None and (keys := sentencepiece_metadata(files)) is not None:
        return keys | {
            "tokenizer.ggml.add_bos_token": boolean(False),
            "tokenizer.ggml.padding_token_id": u32(3),
            "tokenizer.ggml.eos_token_id": u32(1),
            "tokenizer.ggml.unknown_token_id": u32(0),
        }
    return bpe_metadata(files, ("tokenizer.json", "tokenizer.model"))


ARCHITECTURE = Architecture(
    name="mpt",
    classes=("MPTForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
