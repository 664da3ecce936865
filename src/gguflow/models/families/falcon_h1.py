"""Falcon-H1: Mamba-2 and attention side by side in every block; its multipliers go into the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.mamba import first_keys
from gguflow.models.keys import SILU, head_dim, require_activation
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions, rope_metadata
from gguflow.models.rules import Given, Rule, mapped, same, scaled
from gguflow.models.state_space import mamba2
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.views import Map, Numbers


def metadata(config: Document, directory: Path) -> Metadata:
    """Mamba-2's keys, then those of attention."""
    require_activation(config, SILU)
    keys = first_keys("falcon-h1", config)
    keys.config = config
    keys.integer("context_length", "max_position_embeddings", default=0)
    keys.integer("feed_forward_length", "intermediate_size")
    keys.integer("attention.head_count", "num_attention_heads")
    inner, head = config.integer("mamba_d_ssm"), config.integer("mamba_d_head")
    if inner % head:
        raise config.wrong("mamba_d_head", head, f"a divisor of mamba_d_ssm ({inner})")
    keys.integer("ssm.conv_kernel", "mamba_d_conv", default=4)
    keys.put("ssm.inner_size", u32(inner))
    keys.integer("ssm.state_size", "mamba_d_state", default=128)
    keys.put("ssm.time_step_rank", u32(inner // head))
    keys.integer("ssm.group_count", "mamba_n_groups", minimum=1)
    keys.number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "rms_norm_eps", default=1e-5)
    keys.integer("vocab_size", "vocab_size")
    keys.integer("attention.head_count_kv", "num_key_value_heads")
    keys.put("attention.key_length", u32(head_dim(config)))
    keys.put("attention.value_length", u32(head_dim(config)))
    keys.metadata |= rope_metadata("falcon-h1", Rope.of(config, RopeOptions(kinds=("default",))))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Every matrix is multiplied with what its inputs and outputs are multiplied with."""
    for rule in plain(p):
        yield rule if isinstance(rule, Given) else multiplied(p, rule)


def plain(p: Parameters) -> Rules:
    """The blocks without multipliers."""
    yield from decoder.ends(p, norm="model.final_layernorm")
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm")
        yield same(f"{layer}.pre_ff_layernorm.weight", f"{block}.ffn_norm", (p.hidden,))
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        yield from mamba2(p, i, f"{layer}.mamba", norm=None)
        yield from decoder.feed_forward(p, i, source=f"{layer}.feed_forward", bias=False)


def multiplied(p: Parameters, rule: Rule) -> Rule:
    """A rule with the multipliers of its matrix; there is no way back, since a file does not have them."""
    name = rule.sources[0].name
    kind = name.removesuffix(".weight").rpartition(".")[2]
    if not name.endswith(".weight") or kind not in MULTIPLIERS:
        return rule
    if p.config is None:
        return mapped(rule, lambda numbers: numbers, None)
    factors = [number(p.config, key, place) for key, place in MULTIPLIERS[kind]]
    if kind == "in_proj":
        return by_zone(rule, factors[0], zones(p, p.config), p.hidden)
    return mapped(rule, lambda numbers: scaled(numbers, *factors), None)


MULTIPLIERS: dict[str, tuple[tuple[str, int | None], ...]] = {
    "down_proj": (("mlp_multipliers", 1),),
    "gate_proj": (("mlp_multipliers", 0),),
    "k_proj": (("key_multiplier", None), ("attention_in_multiplier", None)),
    "q_proj": (("attention_in_multiplier", None),),
    "v_proj": (("attention_in_multiplier", None),),
    "o_proj": (("attention_out_multiplier", None),),
    "out_proj": (("ssm_out_multiplier", None),),
    "in_proj": (("ssm_in_multiplier", None),),
    "lm_head": (("lm_head_multiplier", None),),
    "embed_tokens": (("embedding_multiplier", None),),
}
"""For each kind of matrix, what it is multiplied with, one after the other: key and place in a list."""


def number(config: Document, key: str, place: int | None) -> float:
    """A multiplier. Raises InvalidError (M-002, M-003)."""
    if place is None:
        return config.number(key)
    found = config.items(key)
    if place >= len(found):
        raise config.wrong(key, found, f"more than {place} numbers")
    value = found[place]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 3.4e38:
        raise config.wrong(key, value, "a number", place)
    return float(value)


def zones(p: Parameters, config: Document) -> list[tuple[int, float]]:
    """Rows of the matrix before the state space: z, x, B, C and the step size, each with its multiplier."""
    inner, states = p.integer("ssm.inner_size"), p.integer("ssm.group_count") * p.integer("ssm.state_size")
    rows = (inner, inner, states, states, p.integer("ssm.time_step_rank"))
    return [(n, number(config, "ssm_multipliers", place)) for place, n in enumerate(rows)]


def by_zone(rule: Rule, factor: float, parts: Sequence[tuple[int, float]], n_in: int) -> Rule:
    """A rule whose matrix is multiplied with one number, then each row with that of its zone."""
    table = np.repeat([np.float32(x) for _, x in parts], [n for n, _ in parts])

    def function(numbers: Numbers, first: int) -> Numbers:
        rows = np.arange(first, first + len(numbers)) // n_in
        by_one = scaled(numbers, factor)
        found: Numbers = (by_one.astype(np.float32) * table[rows]).astype(numbers.dtype)
        return found

    return Rule(
        rule.sources,
        rule.targets,
        lambda views: [Map(view, function) for view in rule.forward(views)],
        None,
        rule.is_required,
    )


ARCHITECTURE = Architecture(
    name="falcon-h1",
    classes=("FalconH1ForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=(*DECODER_KEYS, "ssm.inner_size", "ssm.group_count"),
)
