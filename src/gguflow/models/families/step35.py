"""Step 3.5 and the text model of Step 3.7: heads in two numbers, with gates; experts after dense blocks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, head_dim, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import FULL, SLIDING, Rope, RopeOptions
from gguflow.models.rules import Given, linear, same
from gguflow.models.text_parts import text_names, towers
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(kinds=("default", "linear", "dynamic", "yarn", "llama3"), separate=True)
SHARE = {FULL: 0.5, SLIDING: 1.0}
"""The part of a head that rotates, by the kind of layer: llama.cpp knows no other."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, heads of each layer, windows, and experts."""
    n_next = next_tokens.n_next(config)
    config = _with_bases(config).with_values(num_key_value_heads=config.integer("num_attention_groups"))
    n = n_layers(config) + n_next
    keys = base_keys("step35", config, rope=ROPE, layers=n)
    kinds = _kinds(config, n)
    _check_shares(config, kinds)
    other = config.section("attention_other_setting")
    for key, name in (("head_count", "num_attention_heads"), ("head_count_kv", "num_attention_groups")):
        own = config.integer(name)
        sliding = other.integer(name, own)
        keys.layers(f"attention.{key}", [sliding if kind == SLIDING else own for kind in kinds])
    keys.put("attention.sliding_window", u32(config.integer("sliding_window")))
    keys.layers("attention.sliding_window_pattern", [kind == SLIDING for kind in kinds])
    keys.put("attention.value_length", u32(config.integer("head_dim")))
    keys.put("expert_count", u32(config.integer("moe_num_experts")))
    keys.put("expert_used_count", u32(config.integer("moe_top_k")))
    keys.put("expert_feed_forward_length", u32(config.integer("moe_intermediate_size")))
    keys.put("expert_shared_feed_forward_length", u32(config.integer("share_expert_dim")))
    keys.number("expert_weights_scale", "moe_router_scaling_factor")
    keys.flag("expert_weights_norm", "norm_expert_weight")
    keys.put("leading_dense_block_count", u32(min(_layers_of_experts(config), default=0)))
    keys.put("moe_every_n_layers", u32(config.integer("moe_every_n_layer", 1)))
    keys.put("attention.layer_norm_rms_epsilon", f32(config.number("rms_norm_eps", 1e-5)))
    for key, name in (("exp", "swiglu_limits"), ("shexp", "swiglu_limits_shared")):
        if name in config:
            keys.layers(f"swiglu_clamp_{key}", _limits(config, name, n))
    next_tokens.put_number(keys, n_next, writes_zero=False)
    return keys.metadata


def _with_bases(config: Document) -> Document:
    """config.json with one base of rotation for each kind of layer; it may list one for every layer."""
    said = config.value("rope_theta")
    if not isinstance(said, list):
        return config
    for i, theta in enumerate(said):
        if not isinstance(theta, (int, float)) or isinstance(theta, bool) or theta <= 0:
            raise config.wrong("rope_theta", theta, "positive numbers", i)
    if len(said) < 2:
        raise config.wrong("rope_theta", said, "a number for layers of each kind")
    return config.with_values(rope_theta=said[0], rope_local_base_freq=said[1])


def _kinds(config: Document, n: int) -> list[object]:
    """The kind of each block, those that predict further tokens included; full attention by default."""
    kinds = config.items("layer_types")[:n]
    return kinds + [FULL] * (n - len(kinds))


def _check_shares(config: Document, kinds: list[object]) -> None:
    """Raise InvalidError (M-003) where another part of a head rotates than llama.cpp rotates."""
    for i, (share, kind) in enumerate(zip(config.items("partial_rotary_factors"), kinds, strict=False)):
        expected = SHARE[SLIDING if kind == SLIDING else FULL]
        if share != expected:
            raise config.wrong("partial_rotary_factors", share, f"{expected} in a layer of {kind}", i)


def _layers_of_experts(config: Document) -> list[int]:
    """The numbers of layers with experts; config.json has them as text."""
    said = config.text("moe_layers_enum", "")
    numbers = [part.strip() for part in said.split(",") if part.strip()]
    if any(not number.isdecimal() or len(number) > 6 for number in numbers):
        raise config.wrong("moe_layers_enum", said, "numbers of layers, separated by commas")
    return [int(number) for number in numbers]


def _limits(config: Document, key: str, n: int) -> list[float]:
    """Bounds of activations, 0 for none."""
    found = [0.0 if limit is None else limit for limit in config.items(key)[:n]]
    for i, limit in enumerate(found):
        if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not 0 <= limit < math.inf:
            raise config.wrong(key, limit, "numbers that are not negative, or null", i)
    return [float(limit) for limit in found] + [0.0] * (n - len(found))


def rules(p: Parameters) -> Rules:
    """Dense blocks, blocks of experts, and blocks that predict further tokens."""
    yield from _frequencies(p)
    yield from decoder.ends(p, shift=True)
    n_dense = p.integer("leading_dense_block_count", 0)
    for i in range(p.n_layers):
        is_next = next_tokens.is_next(p, i)
        source, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norms(p, i, shift=True)
        yield from decoder.attention(p, i, head_norms=True, shift=True)
        gate = (f"{source}.self_attn.g_proj.weight", f"{block}.attn_gate.weight")
        yield same(*gate, (p.heads(i), p.hidden), required=False)
        yield from _dense(p, i, required=i < n_dense and not is_next)
        yield from _experts(p, i, required=i >= n_dense and not is_next)
        if is_next:
            names = ("eh_proj", "enorm", "hnorm", "transformer.shared_head.norm")
            head = (
                f"{source}.transformer.shared_head.output.weight",
                f"{block}.nextn.shared_head_head.weight",
            )
            yield same(*head, (p.n_tokens, p.hidden), required=False)
            yield from next_tokens.rules(p, i, names=names, shift=True)


def _dense(p: Parameters, i: int, *, required: bool) -> Rules:
    """A feed-forward network."""
    source, block, wide = f"model.layers.{i}.mlp", f"blk.{i}", p.wide(i)
    for name, shape in (("gate", (wide, p.hidden)), ("up", (wide, p.hidden)), ("down", (p.hidden, wide))):
        yield from linear(
            f"{source}.{name}_proj", f"{block}.ffn_{name}", *shape, bias=False, required=required
        )


def _experts(p: Parameters, i: int, *, required: bool) -> Rules:
    """A router with a bias, experts as stacks, and an expert of all tokens."""
    source, block, n = f"model.layers.{i}", f"blk.{i}", p.n_experts
    shared = p.integer("expert_shared_feed_forward_length", 0)
    router = (f"{source}.moe.gate.weight", f"{block}.ffn_gate_inp.weight")
    yield same(*router, (n, p.hidden), required=required)
    yield same(f"{source}.moe.router_bias", f"{block}.exp_probs_b.bias", (n,), required=False)
    for name in ("gate", "up", "down"):
        for part, target, wide, leading in (
            ("moe", "exps", p.expert_wide, (n,)),
            ("share_expert", "shexp", shared, ()),
        ):
            shape = (*leading, p.hidden, wide) if name == "down" else (*leading, wide, p.hidden)
            names = (f"{source}.{part}.{name}_proj.weight", f"{block}.ffn_{name}_{target}.weight")
            yield same(*names, shape, required=required)


def _frequencies(p: Parameters) -> Rules:
    """rope_freqs.weight, float32[head width / 2], if config.json has Llama 3's scaling."""
    if p.config is not None:
        config = _with_bases(p.config)
        rope = Rope.of(config, ROPE)
        if rope.kind == "llama3":
            factors = _factors(rope, head_dim(config))
            yield Given("rope_freqs.weight", factors.shape, factors)


def _factors(rope: Rope, width: int) -> NDArray[np.float32]:
    """Llama 3's divisors of the frequencies that rotate in layers of full attention, then ones.

    Frequencies are float32, all else is computed in binary64, as in llama.cpp's converter.
    """
    factor = rope.number("factor", 8.0)
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    original = rope.parameters.integer("original_max_position_embeddings", 8192)
    if factor <= 0 or low <= 0 or high <= low:
        found = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        expected = "factor > 0 and 0 < low_freq_factor < high_freq_factor"
        raise rope.parameters.wrong("rope_type", found, expected)
    rotated = int(width * SHARE[FULL])
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    frequencies = np.float32(1) / np.power(rope.theta, exponents.astype(np.float64)).astype(np.float32)
    factors = np.ones(width // 2, np.float32)
    for i, frequency in enumerate(frequencies):
        wavelength = 2 * math.pi / float(frequency)
        if wavelength > original / low:
            factors[i] = factor
        elif wavelength >= original / high:
            smooth = (original / wavelength - low) / (high - low)
            factors[i] = 1 / ((1 - smooth) / factor + smooth)
    return factors


ARCHITECTURE = Architecture(
    name="step35",
    classes=("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    rename=text_names(),
    skipped=towers("vision_model", "vit_large_projector"),
    computed=(r"rope_freqs\.weight",),
)
