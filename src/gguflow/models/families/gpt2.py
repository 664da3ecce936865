"""GPT-2, StarCoder (GPTBigCode) and CodeShell: fused queries, keys and values, biases everywhere."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import (
    GELU,
    Keys,
    base_keys,
    four_times,
    hidden_size,
    n_heads,
    n_layers,
    require_activation,
)
from gguflow.models.parameters import Parameters
from gguflow.models.rules import join, linear, same, transposed
from gguflow.models.tokenizers.bpe import bpe_metadata


def first_keys(name: str, config: Document) -> Keys:
    """The keys that all three have.

    name: `general.architecture`.
    config: config.json.

    Raises InvalidError (M-002, M-003), UnsupportedError (M-009).
    """
    require_activation(config, GELU)
    keys = Keys(name, config)
    keys.integer("context_length", "n_ctx", "n_positions", minimum=1)
    keys.put("embedding_length", u32(hidden_size(config)))
    four_times(keys, "n_inner")
    keys.put("block_count", u32(n_layers(config)))
    keys.put("attention.head_count", u32(n_heads(config)))
    return keys


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of GPT-2."""
    keys = first_keys("gpt2", config)
    keys.number("attention.layer_norm_epsilon", "layer_norm_epsilon", "layer_norm_eps")
    return keys.metadata


def metadata_starcoder(config: Document, directory: Path) -> Metadata:
    """The keys of StarCoder, which has one head of keys."""
    keys = first_keys("starcoder", config)
    keys.put("attention.head_count_kv", u32(1))
    keys.number("attention.layer_norm_epsilon", "layer_norm_epsilon")
    return keys.metadata


def metadata_codeshell(config: Document, directory: Path) -> Metadata:
    """The keys of CodeShell, which rotates."""
    keys = first_keys("codeshell", config)
    keys.integer("attention.head_count_kv", "num_query_groups", minimum=1)
    keys.number("attention.layer_norm_epsilon", "layer_norm_epsilon")
    keys.put("rope.freq_base", f32(10000.0))
    keys.put("rope.scaling.type", string("linear"))
    keys.put("rope.scaling.factor", f32(1.0))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """GPT-2: matrices are stored as [in, out]."""
    yield from blocks(p, is_transposed=True)
    positions = (p.integer("context_length"), p.hidden)
    yield same("transformer.wpe.weight", "position_embd.weight", positions)


def rules_starcoder(p: Parameters) -> Rules:
    """StarCoder: the same with matrices as [out, in]."""
    yield from blocks(p)
    positions = (p.integer("context_length"), p.hidden)
    yield same("transformer.wpe.weight", "position_embd.weight", positions)


def blocks(p: Parameters, *, is_transposed: bool = False) -> Rules:
    """Embeddings, blocks and the last norm.

    p: hyper-parameters.
    is_transposed: whether matrices are stored as [in, out].
    """
    yield from decoder.ends(
        p, embeddings="transformer.wte", norm="transformer.ln_f", norm_bias=True, may_lack_head=True
    )
    qkv = (p.heads() + 2 * p.kv_heads()) * p.head_dim
    for i in range(p.n_layers):
        layer, block = f"transformer.h.{i}", f"blk.{i}"
        for source, target, n_out, n_in in (
            ("attn.c_attn", "attn_qkv", qkv, p.hidden),
            ("attn.c_proj", "attn_output", p.hidden, p.hidden),
            ("mlp.c_fc", "ffn_up", p.wide(i), p.hidden),
            ("mlp.c_proj", "ffn_down", p.hidden, p.wide(i)),
        ):
            name, gguf = f"{layer}.{source}", f"{block}.{target}"
            if is_transposed:
                yield transposed(f"{name}.weight", f"{gguf}.weight", (n_out, n_in))
                yield same(f"{name}.bias", f"{gguf}.bias", (n_out,))
            else:
                yield from linear(name, gguf, n_out, n_in, bias=True)
        yield from decoder.norm(p, f"{layer}.ln_1", f"{block}.attn_norm", bias=True)
        yield from decoder.norm(p, f"{layer}.ln_2", f"{block}.ffn_norm", bias=True)


def rename(name: str, config: Document) -> str:
    """Older checkpoints lack the prefix of the model inside."""
    return f"transformer.{name}" if name.startswith(("h.", "wte.", "wpe.", "ln_f.")) else name


def metadata_xl(config: Document, directory: Path) -> Metadata:
    """The keys of ruGPT-3 XL: the base keys."""
    return base_keys("gpt2", config, activation=GELU, rope=None).metadata


def rules_xl(p: Parameters) -> Rules:
    """ruGPT-3 XL: queries, keys and values become one matrix."""
    yield from decoder.ends(p, norm_bias=True)
    positions = (p.integer("context_length"), p.hidden)
    yield same("model.embed_positions.weight", "position_embd.weight", positions)
    rows = [(kind, n * p.head_dim) for kind, n in zip("qkv", (p.heads(), *[p.kv_heads()] * 2), strict=True)]
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}.self_attn", f"blk.{i}"
        yield from decoder.norms(p, i, bias=True)
        for end, rest in (("weight", (p.hidden,)), ("bias", ())):
            parts = [(f"{source}.{kind}_proj.{end}", n) for kind, n in rows]
            yield join(parts, f"{block}.attn_qkv.{end}", rest)
        yield from linear(f"{source}.o_proj", f"{block}.attn_output", p.hidden, rows[0][1], bias=True)
        yield from decoder.feed_forward(p, i, names=("", "up_proj", "down_proj"), bias=True)


REQUIRED = (*DECODER_KEYS[:-1], "attention.layer_norm_epsilon")
BUFFERS = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias|rotary_emb\..*)",)

ARCHITECTURES = (
    Architecture(
        name="gpt2",
        classes=("GPT2LMHeadModel",),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        rename=rename,
        skipped=BUFFERS,
        required=REQUIRED,
    ),
    Architecture(
        name="gpt2",
        classes=("RuGPT3XLForCausalLM",),
        metadata=metadata_xl,
        rules=rules_xl,
        tokenizer=bpe_metadata,
        required=REQUIRED,
        is_main=False,
    ),
    Architecture(
        name="starcoder",
        classes=("GPTBigCodeForCausalLM",),
        metadata=metadata_starcoder,
        rules=rules_starcoder,
        tokenizer=bpe_metadata,
        rename=rename,
        skipped=BUFFERS,
        required=REQUIRED,
    ),
    Architecture(
        name="codeshell",
        classes=("CodeShellForCausalLM",),
        metadata=metadata_codeshell,
        rules=blocks,
        tokenizer=bpe_metadata,
        rename=rename,
        skipped=BUFFERS,
        required=REQUIRED,
    ),
)
