"""Gemma 4, dense and mixture of experts: heads of two sizes, shared keys, embeddings for every layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gguflow.container.metadata import Metadata, ValueType, array, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families import gemma3
from gguflow.models.families.gemma import four_norms
from gguflow.models.families.gemma3n import layer_embeddings, layer_inputs, layer_types, put_pattern
from gguflow.models.general import read_generation
from gguflow.models.keys import n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import FULL, Rope, RopeOptions
from gguflow.models.rules import Given, padded, same
from gguflow.models.text_parts import text_names, towers
from gguflow.models.tokenizers.sentencepiece import gemma4_metadata

ROPE = RopeOptions(kinds=("default", "proportional"), partial=True, separate=True)
FULL_HEAD_DIM = 512
"""Width of heads in layers of full attention, where config.json does not say it."""

NOT_ROTATED = 1e30
"""The divisor of a frequency that stands for no rotation."""

_FULL_EVERY = 6
_UNIFIED = "Gemma4UnifiedForConditionalGeneration"


def metadata(config: Document, directory: Path) -> Metadata:
    """Gemma 3's keys, and those of heads of each kind of layer."""
    n = n_layers(config)
    kinds = layer_types(config, n, _FULL_EVERY)
    kinds[-1] = FULL  # whatever config.json says, as in transformers
    if config.text("use_bidirectional_attention", "") == "all":
        window = config.integer("sliding_window") // 2 + 1
        config = config.with_values(is_causal=False, sliding_window=window)
    keys = gemma3.keys_of("gemma4", config, rope=ROPE)
    n_shared = config.integer("num_kv_shared_layers", 0, minimum=0, maximum=n)
    keys.put("attention.shared_kv_layers", u32(n_shared))
    per_layer = config.integer("hidden_size_per_layer_input", 0, minimum=0)
    keys.put("embedding_length_per_layer_input", u32(per_layer))
    put_pattern(keys, kinds)
    full, own = _full_head_dim(config, kinds), config.integer("head_dim")
    for name, width in (("", full), ("_swa", own)):
        keys.put(f"attention.key_length{name}", u32(width))
        keys.put(f"attention.value_length{name}", u32(width))
    keys.integer("expert_feed_forward_length", "expert_intermediate_size", "moe_intermediate_size")
    if config.flag("use_double_wide_mlp", False):
        wide = config.integer("intermediate_size")
        widths = [wide if i < n - n_shared else 2 * wide for i in range(n)]
        keys.layers("feed_forward_length", widths)
    if (n_full := _full_kv_heads(config, kinds)) is not None:
        n_own = config.integer("num_key_value_heads")
        keys.layers("attention.head_count_kv", [n_full if kind == FULL else n_own for kind in kinds])
    keys.put("rope.dimension_count", u32(full))
    keys.put("rope.dimension_count_swa", u32(own))
    if class_name(config) == _UNIFIED:
        keys.metadata |= _suppressed(directory)
    return keys.metadata


def _of_full_layer(config: Document, kinds: list[object], key: str) -> int | None:
    """What config.json says of the first layer of full attention that it says it of."""
    layers = config.section("per_layer_config")
    for name in layers.values:
        is_full = name.isdecimal() and int(name) < len(kinds) and kinds[int(name)] == FULL
        if is_full and key in (own := layers.section(name)):
            return own.integer(key)
    return None


def _full_head_dim(config: Document, kinds: list[object]) -> int:
    if "global_head_dim" in config:
        return config.integer("global_head_dim")
    return _of_full_layer(config, kinds, "head_dim") or FULL_HEAD_DIM


def _full_kv_heads(config: Document, kinds: list[object]) -> int | None:
    if "per_layer_config" in config:
        return _of_full_layer(config, kinds, "num_key_value_heads")
    if "num_global_key_value_heads" in config and config.flag("attention_k_eq_v", True):
        return config.integer("num_global_key_value_heads")
    return None


def _suppressed(directory: Path) -> Metadata:
    """The tokens that a model must not give, from generation_config.json."""
    generation = read_generation(directory)
    tokens = [] if generation is None else generation.items("suppress_tokens")
    if not tokens or generation is None:
        return {}
    for i, token in enumerate(tokens):
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 2**31:
            raise generation.wrong("suppress_tokens", token, "a token id", i)
    return {"tokenizer.ggml.suppress_tokens": array(ValueType.INT32, tokens)}


def rules(p: Parameters) -> Rules:
    """The last layers may have no keys and values, and layers of full attention no values."""
    yield from _frequencies(p)
    yield from decoder.ends(p, may_lack_head=True)
    sliding = p.flags("attention.sliding_window_pattern")
    each = p.integer("embedding_length_per_layer_input", 0)
    n_shared = p.integer("attention.shared_kv_layers", 0)
    if each:
        whole = p.n_layers * each
        names = ("model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight")
        yield padded(*names, _rows_for_layers(p), p.n_tokens, whole)
        yield from layer_embeddings(p, whole)
    for i in range(p.n_layers):
        is_sliding = i < len(sliding) and sliding[i]
        yield from four_norms(p, i, shift=False)
        yield from _attention(p, i, is_sliding=is_sliding, is_shared=i >= p.n_layers - n_shared)
        yield from decoder.feed_forward(p, i, bias=False)
        source, block = f"model.layers.{i}", f"blk.{i}"
        yield same(f"{source}.layer_scalar", f"{block}.layer_output_scale.weight", (1,), required=False)
        if each:
            yield from layer_inputs(p, i, each)
        if p.n_experts:
            yield from _experts(p, i)


def _rows_for_layers(p: Parameters) -> int:
    """Rows of the table of embeddings for layers, which may be fewer than tokens."""
    if p.config is None:
        return p.n_tokens
    rows = p.config.integer("vocab_size_per_layer_input", p.n_tokens, maximum=p.n_tokens)
    if rows < p.n_tokens:
        p.config.applied.add("rows-without-tokens")
    return rows


def _attention(p: Parameters, i: int, *, is_sliding: bool, is_shared: bool) -> Rules:
    """Attention of a layer, with heads of its kind."""
    kind = "_swa" if is_sliding else ""
    width = p.integer(f"attention.key_length{kind}", p.head_dim, minimum=1)
    value = p.integer(f"attention.value_length{kind}", p.value_dim, minimum=1)
    heads, kv_heads, hidden = p.heads(i), p.kv_heads(i), p.hidden
    source, block = f"model.layers.{i}.self_attn", f"blk.{i}"
    for name, target, shape, is_needed in (
        ("q_proj", "attn_q", (heads * width, hidden), True),
        ("k_proj", "attn_k", (kv_heads * width, hidden), not is_shared),
        ("v_proj", "attn_v", (kv_heads * value, hidden), is_sliding and not is_shared),
        ("o_proj", "attn_output", (hidden, heads * value), True),
        ("q_norm", "attn_q_norm", (width,), True),
        ("k_norm", "attn_k_norm", (width,), not is_shared),
    ):
        yield same(f"{source}.{name}.weight", f"{block}.{target}.weight", shape, required=is_needed)


def _experts(p: Parameters, i: int) -> Rules:
    """Experts beside the feed-forward network, gate and up of each in one matrix."""
    source, block = f"model.layers.{i}", f"blk.{i}"
    n, wide, hidden = p.n_experts, p.expert_wide, p.hidden
    for name, target, shape in (
        ("router.proj.weight", "ffn_gate_inp.weight", (n, hidden)),
        ("router.scale", "ffn_gate_inp.scale", (hidden,)),
        ("router.per_expert_scale", "ffn_down_exps.scale", (n,)),
        ("pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", (hidden,)),
        ("post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", (hidden,)),
        ("post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", (hidden,)),
        ("experts.gate_up_proj", "ffn_gate_up_exps.weight", (n, 2 * wide, hidden)),
        ("experts.down_proj", "ffn_down_exps.weight", (n, hidden, wide)),
    ):
        yield same(f"{source}.{name}", f"{block}.{target}", shape)


def _frequencies(p: Parameters) -> Iterator[Given]:
    """rope_freqs.weight, float32[width of a full head / 2]: in layers of full attention only the first part
    of a head rotates, and the frequencies are those of the whole head.
    """
    width = p.head_dim
    factors = None
    if p.config is not None:
        n_rotated = int(width * Rope.of(p.config, ROPE).partial / 2)
        factors = np.full(width // 2, NOT_ROTATED, np.float32)
        factors[:n_rotated] = 1
    yield Given("rope_freqs.weight", (width // 2,), factors, is_required=True)


def rename(name: str, config: Document) -> str:
    """Remove the prefixes of larger models, and ".weight" behind stacks of experts."""
    name = _text_name(name, config)
    return name.removesuffix(".weight") if ".experts." in name else name


_text_name = text_names()

ARCHITECTURE = Architecture(
    name="gemma4",
    classes=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", _UNIFIED),
    metadata=metadata,
    rules=rules,
    tokenizer=gemma4_metadata,
    rename=rename,
    skipped=towers("vision_tower", "audio_tower", "embed_vision", "embed_audio", "vision_embedder"),
    computed=(r"rope_freqs\.weight",),
)
