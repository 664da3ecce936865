"""RWKV 7, and RWKV 7 with the networks of Qwen 2 (ARWKV): linear attention that learns in context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Part, Rule, Views, linear, reshaped, same, stack, transposed
from gguflow.models.state_space import CONTEXT
from gguflow.models.tokenizers.rwkv import rwkv_world_metadata
from gguflow.models.tokenizers.variants import sentencepiece_or_bpe_metadata

LERPS = "rwkvag"
"""What is mixed with the token before; the last is for the gate."""

RANKS = (
    ("decay", "decay_low_rank_dim", 0.5, 1.8),
    ("iclr", "a_low_rank_dim", 0.5, 1.8),
    ("value_residual_mix", "v_low_rank_dim", 0.5, 1.3),
    ("gate", "gate_low_rank_dim", 0.8, 0.6),
)
"""Ranks of matrices in two parts: the key, its other name in config.json, and what gives the default."""

OF = {"w": "decay", "a": "iclr", "v": "value_residual_mix", "g": "gate"}
"""The rank of each matrix in two parts."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of RWKV 7, which has no limit of its context."""
    hidden = config.integer("hidden_size")
    keys = _common("rwkv7", config)
    epsilon = config.first(("layer_norm_epsilon", "norm_eps")) or "layer_norm_epsilon"
    keys.put("attention.layer_norm_epsilon", f32(config.number(epsilon)))
    keys.put("wkv.head_size", u32(config.integer(config.first(("head_size", "head_dim")) or "head_size")))
    for key, other, exponent, factor in RANKS:
        default = max(1, round(hidden**exponent * factor / 32)) * 32
        name = config.first((f"lora_rank_{key}", other)) or other
        keys.put(f"attention.{key}_lora_rank", u32(config.integer(name, default)))
    keys.put("feed_forward_length", u32(config.integer("intermediate_size", hidden * 4)))
    return keys.metadata


def hybrid_metadata(config: Document, directory: Path) -> Metadata:
    """The keys of ARWKV. Raises UnsupportedError (M-009) for another version of RWKV."""
    if (version := config.integer("wkv_version", 7)) != 7:
        message = "llama.cpp has RWKV 7 in this family"
        finding = Finding("M-009", message, config.at("wkv_version"), found=version, expected=7)
        raise UnsupportedError(config.file, finding)
    keys = _common("arwkv7", config)
    keys.put("attention.layer_norm_rms_epsilon", f32(config.number("rms_norm_eps")))
    keys.put("wkv.head_size", u32(config.integer("head_size")))
    gate = 128 if config.flag("wkv_has_gate") else 0
    for (key, *_), rank in zip(RANKS, (64, 64, 32, gate), strict=True):
        keys.put(f"attention.{key}_lora_rank", u32(rank))
    keys.put("feed_forward_length", u32(config.integer("intermediate_size")))
    keys.put("token_shift_count", u32(1))
    return keys.metadata


def _common(name: str, config: Document) -> Keys:
    keys = Keys(name, config)
    keys.put("context_length", u32(CONTEXT))
    keys.put("embedding_length", u32(config.integer("hidden_size")))
    keys.put("block_count", u32(n_layers(config)))
    keys.put("attention.head_count", u32(0))
    return keys


@dataclass(frozen=True)
class _Layout:
    """The names of one kind of checkpoint; {i} is the layer.

    attention: what names of attention begin with.
    matrices: of receptance, key, value and output.
    norm: of the norm after attention.
    is_split: whether matrices in two parts are modules (`w_lora.lora.0.weight`), and not transposed.
    """

    attention: str
    matrices: tuple[str, str, str, str] = ("receptance", "key", "value", "output")
    norm: str = "ln_x"
    is_split: bool = False


OLD = _Layout("model.blocks.{i}.attention")
FLA = _Layout("model.layers.{i}.attn", ("r_proj", "k_proj", "v_proj", "o_proj"), "g_norm", is_split=True)
HYBRID = _Layout("model.layers.{i}.self_attn.time_mixer")


def rules(p: Parameters) -> Rules:
    """RWKV 7 in its first layout."""
    yield from _ends(p, "model.pre_ln", "model.ln_out", "head")
    for i in range(p.n_layers):
        layer = f"model.blocks.{i}"
        yield from _attention(p, i, OLD)
        yield from _network(p, i, layer, "feed_forward", ("ln1", "ln2"))


def fla_rules(p: Parameters) -> Rules:
    """RWKV 7 as the library flash-linear-attention saves it."""
    yield from _ends(p, "model.layers.0.pre_norm", "model.norm", "lm_head")
    for i in range(p.n_layers):
        layer = f"model.layers.{i}"
        yield from _attention(p, i, FLA)
        yield from _network(p, i, layer, "ffn", ("attn_norm", "ffn_norm"))


def hybrid_rules(p: Parameters) -> Rules:
    """RWKV 7 in the place of Qwen's attention."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.feed_forward(p, i)
        yield from _attention(p, i, HYBRID)


def _ends(p: Parameters, first: str, last: str, head: str) -> Rules:
    shape = (p.n_tokens, p.hidden)
    yield same("model.embeddings.weight", "token_embd.weight", shape)
    yield from decoder.norm(p, first, "token_embd_norm", bias=True)
    yield from decoder.norm(p, last, "output_norm", bias=True)
    yield same(f"{head}.weight", "output.weight", shape)


def _network(p: Parameters, i: int, layer: str, name: str, norms: tuple[str, str]) -> Rules:
    """Norms and the network of a block."""
    block, wide, hidden = f"blk.{i}", p.wide(), p.hidden
    yield from decoder.norm(p, f"{layer}.{norms[0]}", f"{block}.attn_norm", bias=True)
    yield from decoder.norm(p, f"{layer}.{norms[1]}", f"{block}.attn_norm_2", bias=True)
    lerp = f"{block}.channel_mix_lerp_k.weight"
    yield from _vector(p, f"{layer}.{name}.x_k", lerp, is_flat=name == "ffn")
    yield from linear(f"{layer}.{name}.key", f"{block}.channel_mix_key", wide, hidden, bias=False)
    yield from linear(f"{layer}.{name}.value", f"{block}.channel_mix_value", hidden, wide, bias=False)


def _attention(p: Parameters, i: int, layout: _Layout) -> Rules:
    source, block, hidden = layout.attention.replace("{i}", str(i)), f"blk.{i}", p.hidden
    has_gate = p.integer("attention.gate_lora_rank", 0) > 0
    lerps = LERPS if has_gate else LERPS[:-1]
    fused = f"{block}.time_mix_lerp_fused.weight"
    yield stack([f"{source}.x_{name}" for name in lerps], fused, (1, 1, hidden))
    yield same(f"{source}.x_x", fused, (len(lerps), 1, 1, hidden))
    yield reshaped(f"{source}.x_x", fused, (len(lerps), hidden), (len(lerps), 1, 1, hidden))
    for name in ("w", "a", "v", "g") if has_gate else ("w", "a", "v"):
        if name == "v" and i == 0:
            continue
        for rule in _two_parts(p, source, block, name, layout):
            yield _twice(rule) if name == "a" and i == 0 else rule
    for name in ("k_k", "k_a"):
        yield from _vector(p, f"{source}.{name}", f"{block}.time_mix_{name}.weight", is_flat=layout.is_split)
    size = p.integer("wkv.head_size", minimum=1)
    yield reshaped(f"{source}.r_k", f"{block}.time_mix_r_k.weight", (hidden // size, size), (hidden,))
    for name, target in zip(layout.matrices, ("receptance", "key", "value", "output"), strict=True):
        yield from linear(f"{source}.{name}", f"{block}.time_mix_{target}", hidden, hidden, bias=False)
    for kind in ("weight", "bias"):
        norm = f"{block}.time_mix_ln.{kind}"
        yield same(f"{source}.{layout.norm}.{kind}", norm, (hidden,), required=p.architecture == "rwkv7")


def _two_parts(p: Parameters, source: str, block: str, name: str, layout: _Layout) -> Iterator[Rule]:
    """A matrix of low rank in two parts; but for the gate, its result has a bias."""
    rank, target = p.integer(f"attention.{OF[name]}_lora_rank"), f"{block}.time_mix_{name}"
    shapes = ((rank, p.hidden), (p.hidden, rank))
    for part, shape in enumerate(shapes, 1):
        if layout.is_split:
            lora = f"{source}.{name}_lora.lora.{2 * (part - 1)}.weight"
            yield same(lora, f"{target}{part}.weight", shape)
        else:
            yield transposed(f"{source}.{name}{part}", f"{target}{part}.weight", shape)
    if name != "g":
        bias = f"{source}.{name}_lora.lora.2.bias" if layout.is_split else f"{source}.{name}0"
        yield from _vector(p, bias, f"{target}0.weight", is_flat=layout.is_split)


def _vector(p: Parameters, source: str, target: str, *, is_flat: bool) -> Iterator[Rule]:
    """A number for each channel; on the way back it is flat, or has axes of one before it."""
    rules = [
        same(source, target, (p.hidden,)),
        reshaped(source, target, (1, 1, p.hidden), (p.hidden,)),
    ]
    yield from rules if is_flat else reversed(rules)


def _twice(rule: Rule) -> Rule:
    """A rule whose result is there twice: llama.cpp wants in the first block what only later ones use."""
    [target], backward = rule.targets, rule.backward
    other = Part(target.name.replace("time_mix_a", "time_mix_v"), target.shape)

    def forward(views: Views) -> Views:
        [view] = rule.forward(views)
        return [view, view]

    way_back = None if backward is None else lambda views: backward(views[:1])
    return replace(rule, targets=(target, other), forward=forward, backward=way_back)


KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "wkv.head_size"),
    *("attention.decay_lora_rank", "attention.iclr_lora_rank", "attention.value_residual_mix_lora_rank"),
)
FIRST = r"model\.(blocks|layers)\.0\.(attention|attn|self_attn\.time_mixer)\.(v[012]|v_lora\..*)"
"""What the first block has and nobody uses."""

_RWKV7 = Architecture(
    name="rwkv7",
    classes=("Rwkv7ForCausalLM",),
    metadata=metadata,
    rules=rules,
    required=(*KEYS, "attention.layer_norm_epsilon"),
    tokenizer=rwkv_world_metadata,
    skipped=(FIRST,),
    is_main=False,
)

ARCHITECTURES = (
    replace(_RWKV7, classes=("RWKV7ForCausalLM",), rules=fla_rules, is_main=True),
    _RWKV7,
    Architecture(
        name="arwkv7",
        classes=("RwkvHybridForCausalLM",),
        metadata=hybrid_metadata,
        rules=hybrid_rules,
        required=(*KEYS, "attention.layer_norm_rms_epsilon"),
        tokenizer=sentencepiece_or_bpe_metadata,
        skipped=(FIRST,),
    ),
)
