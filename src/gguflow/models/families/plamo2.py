"""PLaMo 2 and 3: blocks with norms before and after; those of PLaMo 2 alternate attention and Mamba-2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, base_keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, negative_exponential, reshaped, same, shifted
from gguflow.models.tokenizers.plamo import plamo_metadata

AFTER_MIXER, AFTER_MLP = 1.0 / 5, 1.0 / 5**1.5
"""What norms after attention and after the network are stored less than; others are stored less one."""

ROPE = RopeOptions(kinds=("default", "yarn"), separate=True, read=frozenset(("rope_scaling_factor",)))


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of PLaMo 2. Raises UnsupportedError (M-009) for one of attention alone."""
    if not config.flag("mamba_enabled", True):
        message = "llama.cpp has state spaces in every model of this family"
        finding = Finding("M-009", message, config.at("mamba_enabled"), found=False, expected=True)
        raise UnsupportedError(config.file, finding)
    keys, n = Keys("plamo2", config), n_layers(config)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    step = config.integer("mamba_step", 2)
    attends = [i % step == step // 2 if n > step // 2 else i == n - 1 for i in range(n)]
    for key, name, default in (
        ("attention.head_count_kv", "num_key_value_heads", 4),
        ("attention.head_count", "num_attention_heads", 32),
    ):
        number = config.integer(name, default)
        keys.put(key, array(ValueType.INT32, [number if own else 0 for own in attends]))
    keys.put("context_length", u32(config.integer("max_position_embeddings", 2048)))
    keys.put("embedding_length", u32(config.integer("hidden_size", 4096)))
    width, n_ssm = config.integer("hidden_size_per_head", 128), config.integer("mamba_num_heads", 64)
    keys.put("attention.key_length", u32(width))
    keys.put("attention.value_length", u32(width))
    keys.put("block_count", u32(n))
    keys.put("attention.layer_norm_rms_epsilon", f32(config.number("rms_norm_eps", 1e-6)))
    keys.put("rope.freq_base", f32(config.number("rope_theta", 10000.0)))
    keys.put("ssm.state_size", u32(config.integer("mamba_d_state", 64)))
    keys.put("ssm.conv_kernel", u32(config.integer("mamba_d_conv", 4)))
    keys.put("ssm.time_step_rank", u32(n_ssm))
    keys.put("ssm.inner_size", u32(n_ssm * width))
    keys.put("ssm.group_count", u32(0))
    keys.put("feed_forward_length", u32(config.integer("intermediate_size", 13312)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """PLaMo 2: a block of attention has heads."""
    yield from _ends(p)
    for i in range(p.n_layers):
        yield from _block(p, i)
        mixer, block = f"model.layers.layers.{i}.mixer", f"blk.{i}"
        if not p.heads(i):
            yield from _state_space(p, i, mixer)
            continue
        yield from _attention(p, i)
        for kind, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            yield same(f"{mixer}.{kind}_weight", f"{block}.attn_{kind}_norm.weight", (n, p.head_dim))


def metadata3(config: Document, directory: Path) -> Metadata:
    """The keys of PLaMo 3, whose scaling of rotary embeddings stands beside the base of the frequencies."""
    factor = config.number("rope_scaling_factor", 1.0)
    if factor != 1 and "rope_type" not in config.section("rope_parameters"):
        yarn = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": config.integer("initial_context_length"),
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        }
        values = {**config.values, "rope_parameters": {**config.section("rope_parameters").values, **yarn}}
        config = replace(config, values=values)
    keys = base_keys("plamo3", config, rope=ROPE)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    if keys.integer("attention.sliding_window", "window_size", "sliding_window") is not None:
        pattern = config.integer("sliding_window_pattern")
        keys.put("attention.sliding_window_pattern", u32(pattern))
    return keys.metadata


def rules3(p: Parameters) -> Rules:
    """PLaMo 3: attention alone, with norms of heads."""
    yield from _ends(p)
    for i in range(p.n_layers):
        yield from _block(p, i)
        yield from _attention(p, i)
        mixer = f"model.layers.layers.{i}.mixer"
        for kind in "qk":
            yield shifted(f"{mixer}.{kind}_norm.weight", f"blk.{i}.attn_{kind}_norm.weight", (p.head_dim,))


def _ends(p: Parameters) -> Rules:
    yield same("model.embed_tokens.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield shifted("model.norm.weight", "output_norm.weight", (p.hidden,))
    yield same("lm_head.weight", "output.weight", (p.n_tokens, p.hidden), required=False)


def _block(p: Parameters, i: int) -> Rules:
    """Norms and the network."""
    layer, block, shape, wide = f"model.layers.layers.{i}", f"blk.{i}", (p.hidden,), p.wide(i)
    yield shifted(f"{layer}.pre_mixer_norm.weight", f"{block}.attn_norm.weight", shape)
    yield shifted(f"{layer}.post_mixer_norm.weight", f"{block}.post_attention_norm", shape, AFTER_MIXER)
    yield shifted(f"{layer}.pre_mlp_norm.weight", f"{block}.ffn_norm.weight", shape)
    yield shifted(f"{layer}.post_mlp_norm.weight", f"{block}.post_ffw_norm", shape, AFTER_MLP)
    yield from linear(f"{layer}.mlp.gate_up_proj", f"{block}.ffn_up", 2 * wide, p.hidden, bias=False)
    yield from linear(f"{layer}.mlp.down_proj", f"{block}.ffn_down", p.hidden, wide, bias=False)


def _attention(p: Parameters, i: int) -> Rules:
    """Two matrices."""
    mixer, block, q = f"model.layers.layers.{i}.mixer", f"blk.{i}", p.heads(i) * p.head_dim
    n = q + p.kv_heads(i) * (p.head_dim + p.value_dim)
    yield from linear(f"{mixer}.qkv_proj", f"{block}.attn_qkv", n, p.hidden, bias=False)
    rows = p.heads(i) * p.value_dim
    yield from linear(f"{mixer}.o_proj", f"{block}.attn_output", p.hidden, rows, bias=False)


def _state_space(p: Parameters, i: int, mixer: str) -> Rules:
    """A state space whose step size, B and C are normalized, and come from one matrix."""
    block, inner, state = f"blk.{i}", p.integer("ssm.inner_size"), p.integer("ssm.state_size")
    n_heads, kernel = p.integer("ssm.time_step_rank"), p.integer("ssm.conv_kernel")
    rank = max(64, p.hidden // 16)
    yield from linear(f"{mixer}.in_proj", f"{block}.ssm_in", 2 * inner, p.hidden, bias=False)
    convolution = f"{block}.ssm_conv1d.weight"
    yield reshaped(f"{mixer}.conv1d.weight", convolution, (inner, 1, kernel), (inner, kernel))
    yield from linear(f"{mixer}.bcdt_proj", f"{block}.ssm_x", rank + 2 * state, inner, bias=False)
    yield from linear(f"{mixer}.dt_proj", f"{block}.ssm_dt", n_heads, rank, bias=False)
    yield same(f"{mixer}.dt_bias", f"{block}.ssm_dt.bias", (n_heads,))
    yield negative_exponential(same(f"{mixer}.A_log", f"{block}.ssm_a", (n_heads,)))
    yield same(f"{mixer}.D", f"{block}.ssm_d", (n_heads,))
    for source, target, n in (("dt", "dt", rank), ("B", "b", state), ("C", "c", state)):
        yield same(f"{mixer}.{source}_norm_weight", f"{block}.ssm_{target}_norm", (n,))
    yield from linear(f"{mixer}.out_proj", f"{block}.ssm_out", p.hidden, inner, bias=False)


KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"),
    *("attention.layer_norm_rms_epsilon", "attention.key_length"),
)

ARCHITECTURES = (
    Architecture(
        name="plamo2",
        classes=("PLaMo2ForCausalLM", "Plamo2ForCausalLM"),
        metadata=metadata,
        rules=rules,
        required=(*KEYS, "ssm.inner_size"),
        tokenizer=plamo_metadata,
    ),
    Architecture(
        name="plamo3",
        classes=("PLaMo3ForCausalLM", "Plamo3ForCausalLM"),
        metadata=metadata3,
        rules=rules3,
        required=KEYS,
        tokenizer=plamo_metadata,
    ),
)
