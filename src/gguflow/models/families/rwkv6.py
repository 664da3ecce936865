"""RWKV 6, and RWKV 6 with the networks of Qwen 2: linear attention with a decay that depends on the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, n_layers
from gguflow.models.orders import Order, Table
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Rule, linear, mapped, reshaped, same, stack, transposed
from gguflow.models.state_space import CONTEXT
from gguflow.models.tokenizers.rwkv import rwkv_world_metadata
from gguflow.models.tokenizers.variants import sentencepiece_or_bpe_metadata
from gguflow.models.views import Rows, Transpose, stacked

LERPS = "wkvrg"
"""What is mixed with the token before, in llama.cpp's order."""

OF_QWEN = (3, 1, 2, 0, 4)
"""The same in the order in which RWKV 6 with Qwen's networks has the matrices of mixing."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of RWKV 6, which has no limit of its context."""
    hidden = config.integer("hidden_size")
    is_large = hidden == 4096
    keys = Keys("rwkv6", config)
    keys.put("context_length", u32(CONTEXT))
    keys.put("embedding_length", u32(hidden))
    keys.put("block_count", u32(n_layers(config)))
    keys.put("attention.layer_norm_epsilon", f32(config.number("layer_norm_epsilon")))
    keys.put("rescale_every_n_layers", u32(config.integer("rescale_every", 0, minimum=0)))
    keys.put("wkv.head_size", u32(config.integer("head_size")))
    keys.put("time_mix_extra_dim", u32(64 if is_large else 32))
    keys.put("time_decay_extra_dim", u32(128 if is_large else 64))
    keys.put("feed_forward_length", u32(config.integer("intermediate_size", int(hidden * 3.5 // 32 * 32))))
    keys.put("attention.head_count", u32(0))
    return keys.metadata


def qwen_metadata(config: Document, directory: Path) -> Metadata:
    """The keys of RWKV 6 with the networks of Qwen 2."""
    hidden = config.integer("hidden_size")
    is_large = hidden >= 4096
    keys = Keys("rwkv6qwen2", config)
    keys.put("context_length", u32(CONTEXT))
    keys.put("embedding_length", u32(hidden))
    keys.put("block_count", u32(n_layers(config)))
    keys.put("wkv.head_size", u32(hidden // config.integer("num_attention_heads")))
    keys.put("time_mix_extra_dim", u32(config.integer("lora_rank_tokenshift", 64 if is_large else 32)))
    keys.put("time_decay_extra_dim", u32(config.integer("lora_rank_decay", 128 if is_large else 64)))
    keys.put("feed_forward_length", u32(config.integer("intermediate_size")))
    keys.put("attention.layer_norm_rms_epsilon", f32(config.number("rms_norm_eps")))
    keys.put("token_shift_count", u32(1))
    keys.put("attention.head_count_kv", u32(config.integer("num_key_value_heads")))
    keys.put("attention.head_count", u32(0))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """RWKV 6; some matrices are divided by a power of two in later blocks, against overflow in F16."""
    hidden, wide, size = p.hidden, p.wide(), p.integer("wkv.head_size", minimum=1)
    every = p.integer("rescale_every_n_layers", 0)
    yield same("rwkv.embeddings.weight", "token_embd.weight", (p.n_tokens, hidden))
    yield from decoder.norm(p, "rwkv.blocks.0.pre_ln", "token_embd_norm", bias=True)
    yield from decoder.norm(p, "rwkv.ln_out", "output_norm", bias=True)
    yield same("head.weight", "output.weight", (p.n_tokens, hidden))
    for i in range(p.n_layers):
        layer, block = f"rwkv.blocks.{i}", f"blk.{i}"
        attention, network = f"{layer}.attention", f"{layer}.feed_forward"
        halvings = i // every if every else 0
        yield from decoder.norm(p, f"{layer}.ln1", f"{block}.attn_norm", bias=True)
        yield from decoder.norm(p, f"{layer}.ln2", f"{block}.attn_norm_2", bias=True)
        yield from _mixing(p, attention, block)
        shape = (hidden // size, size)
        yield same(f"{attention}.time_faaaa", f"{block}.time_mix_first.weight", shape)
        for name in ("receptance", "key", "value", "gate"):
            yield from linear(f"{attention}.{name}", f"{block}.time_mix_{name}", hidden, hidden, bias=False)
        yield from decoder.norm(p, f"{attention}.ln_x", f"{block}.time_mix_ln", bias=True)
        output = same(f"{attention}.output.weight", f"{block}.time_mix_output.weight", (hidden, hidden))
        yield _halved(output, halvings)
        for name in "kr":
            lerp = f"{block}.channel_mix_lerp_{name}.weight"
            yield reshaped(f"{network}.time_maa_{name}", lerp, (1, 1, hidden), (hidden,))
        yield from linear(f"{network}.key", f"{block}.channel_mix_key", wide, hidden, bias=False)
        gate = f"{block}.channel_mix_receptance"
        yield from linear(f"{network}.receptance", gate, hidden, hidden, bias=False)
        value = same(f"{network}.value.weight", f"{block}.channel_mix_value.weight", (hidden, wide))
        yield _halved(value, halvings)


def _halved(rule: Rule, n: int) -> Rule:
    """A rule whose results are divided by two n times."""
    if not n:
        return rule
    return mapped(
        rule,
        lambda numbers: numbers / numbers.dtype.type(2**n),
        lambda numbers: numbers * numbers.dtype.type(2**n),
    )


def qwen_rules(p: Parameters) -> Rules:
    """RWKV 6 in the place of Qwen's attention; keys and values have fewer heads."""
    hidden = p.hidden
    size = p.integer("wkv.head_size", minimum=1)
    n_keys = p.integer("attention.head_count_kv") * size
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}.self_attn", f"blk.{i}"
        yield from decoder.norms(p, i)
        yield from decoder.feed_forward(p, i)
        yield from _mixing(p, source, block, OF_QWEN)
        first = f"{block}.time_mix_first.weight"
        yield same(f"{source}.time_faaaa", first, (hidden // size, size), required=False)
        for name, target, n_out in (
            ("q_proj", "receptance", hidden),
            ("k_proj", "key", n_keys),
            ("v_proj", "value", n_keys),
            ("gate", "gate", hidden),
            ("o_proj", "output", hidden),
        ):
            yield from linear(f"{source}.{name}", f"{block}.time_mix_{target}", n_out, hidden)


def _mixing(p: Parameters, source: str, block: str, order: tuple[int, ...] | None = None) -> Rules:
    """How much of the token before is mixed in, and how fast states decay.

    order: of the five parts of both matrices of mixing; None for llama.cpp's.
    """
    hidden = p.hidden
    extra, decay = p.integer("time_mix_extra_dim"), p.integer("time_decay_extra_dim")
    vector = (1, 1, hidden)
    yield reshaped(f"{source}.time_maa_x", f"{block}.time_mix_lerp_x.weight", vector, (hidden,))
    lerps = [f"{source}.time_maa_{name}" for name in LERPS]
    yield stack(lerps, f"{block}.time_mix_lerp_fused.weight", vector)
    first = transposed(f"{source}.time_maa_w1", f"{block}.time_mix_w1.weight", (5 * extra, hidden))
    second = transposed(f"{source}.time_maa_w2", f"{block}.time_mix_w2.weight", (5, hidden, extra))
    yield _in_order(first, extra, order)
    yield _in_order(second, hidden, order)
    yield reshaped(f"{source}.time_decay", f"{block}.time_mix_decay.weight", vector, (hidden,))
    yield transposed(f"{source}.time_decay_w1", f"{block}.time_mix_decay_w1.weight", (decay, hidden))
    yield transposed(f"{source}.time_decay_w2", f"{block}.time_mix_decay_w2.weight", (hidden, decay))


def _in_order(rule: Rule, rows: int, parts: tuple[int, ...] | None) -> Rule:
    """A transposing rule whose result has its parts, of so many rows each, in another order."""
    if parts is None:
        return rule
    source, target = rule.sources[0].shape, rule.targets[0].shape
    numbers = (np.asarray(parts)[:, None] * rows + np.arange(rows)).reshape(-1)
    order: Order = Table.of(numbers)
    inverse = order.inverse
    return Rule(
        rule.sources,
        rule.targets,
        lambda views: (Rows(Transpose(views[0]), target, order),),
        lambda views: (stacked((Transpose(Rows(views[0], target, inverse)),), source),),
    )


RWKV_KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "wkv.head_size"),
    *("time_mix_extra_dim", "time_decay_extra_dim"),
)

ARCHITECTURES = (
    Architecture(
        name="rwkv6",
        classes=("Rwkv6ForCausalLM",),
        metadata=metadata,
        rules=rules,
        required=(*RWKV_KEYS, "attention.layer_norm_epsilon"),
        tokenizer=rwkv_world_metadata,
    ),
    Architecture(
        name="rwkv6qwen2",
        classes=("RWKV6Qwen2ForCausalLM",),
        metadata=qwen_metadata,
        rules=qwen_rules,
        required=(*RWKV_KEYS, "attention.layer_norm_rms_epsilon", "attention.head_count_kv"),
        tokenizer=sentencepiece_or_bpe_metadata,
    ),
)
