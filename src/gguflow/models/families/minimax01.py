"""MiniMax Text-01 and M1: linear attention (lightning) in most blocks, and experts in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.minimax import ROPE
from gguflow.models.keys import Keys, base_keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Given, Rule, linear, same
from gguflow.models.tokenizers.bpe import bpe_metadata

PARTS = ("full_attention", "linear_attention", "mlp")
"""Of a block, of each of which config.json says how its input is scaled (alpha) and its output (beta)."""

INTERVAL = 8
"""llama.cpp takes every eighth block for one of usual attention, if a file does not say it."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, the scale of the residual stream, and how much of a head rotates."""
    keys = base_keys("minimax-01", config, rope=ROPE)
    alpha = config.number("layernorm_full_attention_alpha")
    for part in PARTS:
        for kind, expected in (("alpha", alpha), ("beta", 1.0)):
            key = f"layernorm_{part}_{kind}"
            if config.number(key) != expected:
                message = "llama.cpp scales all parts of a block alike, and what they give not at all"
                finding = Finding(
                    "M-009", message, config.at(key), found=config.value(key), expected=expected
                )
                raise UnsupportedError(config.file, finding)
    keys.put("residual_scale", f32(alpha))
    keys.put("rope.dimension_count", u32(config.integer("rotary_dim")))
    _put_order(keys)
    if not (directory / "chat_template.jinja").is_file():
        config.applied.add("minimax-template")
    return keys.metadata


def _put_order(keys: Keys) -> None:
    """Which blocks have linear attention, where these are others than llama.cpp expects."""
    config = keys.config
    kinds = config.items("attn_type_list")
    if len(kinds) != n_layers(config) or not set(map(repr, kinds)) <= {"0", "1"}:
        raise config.wrong("attn_type_list", kinds, f"0 or 1 for each of {n_layers(config)} layers")
    if any(bool(kind) != is_usual(i) for i, kind in enumerate(kinds)):
        keys.layers("attention.recurrent_layers", [not kind for kind in kinds])
        config.applied.add("order-of-attention")


def is_usual(i: int) -> bool:
    """Whether a block has usual attention where a file does not say it.

    i: number of the block.
    """
    return (i + 1) % INTERVAL == 0


def rules(p: Parameters) -> Rules:
    """Usual attention in every eighth block, or as the file says."""
    is_linear = p.flags("attention.recurrent_layers")
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        if not is_linear[i] if i < len(is_linear) else is_usual(i):
            yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        else:
            yield from _linear_attention(p, i)
        source = f"model.layers.{i}.block_sparse_moe"
        yield from decoder.router(p, i, source=f"{source}.gate")
        yield from decoder.experts(p, i, source=f"{source}.experts", names=("w1", "w3", "w2"))


def _linear_attention(p: Parameters, i: int) -> Iterator[Rule | Given]:
    """Q, K and V as one matrix; what attention gives is normalized, then gated."""
    source, block, inner = f"model.layers.{i}.self_attn", f"blk.{i}", p.heads(i) * p.head_dim
    for name, target, n_out, n_in in (
        ("qkv_proj", "attn_qkv", 3 * inner, p.hidden),
        ("output_gate", "attn_gate", inner, p.hidden),
        ("out_proj", "attn_output", p.hidden, inner),
    ):
        yield from linear(f"{source}.{name}", f"{block}.{target}", n_out, n_in, bias=False)
    yield same(f"{source}.norm.weight", f"{block}.attn_norm_2.weight", (inner,))


ARCHITECTURE = Architecture(
    name="minimax-01",
    classes=("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
)
