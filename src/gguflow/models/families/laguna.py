"""Poolside's Laguna: gated attention, windows that slide in some layers, and experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, boolean, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder, mixture
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GATING_FUNCTIONS, base_keys, head_dim, n_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import FULL, SLIDING, RopeOptions
from gguflow.models.rules import Rule, linear, optional
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.vocabulary import TokenType

ROPE = RopeOptions(partial=True, separate=True)
END_OF_TURN = "</assistant>"
"""A token that ends answers; tokenizer.json does not mark it as special."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for windows, experts, and how much of a head rotates."""
    keys = base_keys("laguna", config, rope=ROPE)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.layers("attention.head_count", _heads(config))
    gates(config)
    if window := config.integer("sliding_window", 0, minimum=0):
        keys.put("attention.sliding_window", u32(window))
    keys.put("expert_feed_forward_length", u32(config.integer("moe_intermediate_size")))
    keys.put("expert_shared_feed_forward_length", u32(config.integer("shared_expert_intermediate_size")))
    keys.put("expert_weights_norm", boolean(True))
    keys.put("expert_weights_scale", f32(config.number("moe_routed_scaling_factor")))
    keys.put("expert_gating_func", u32(GATING_FUNCTIONS["sigmoid"]))
    keys.put("leading_dense_block_count", u32(_n_dense(config)))
    parts: tuple[tuple[str, str, bool], ...] = (("", FULL, True), ("_swa", SLIDING, False))
    for suffix, kind, is_needed in parts:
        said = rope_part(config, kind)
        if said is not None or is_needed:
            share = 1.0 if said is None else said.number("partial_rotary_factor", 1.0)
            keys.put(f"rope.dimension_count{suffix}", u32(int(head_dim(config) * share)))
    return keys.metadata


def rope_part(config: Document, kind: str) -> Document | None:
    """The parameters of rotary embeddings for a kind of layers, None if there are none.

    config: config.json.
    kind: of the layers.

    Raises InvalidError (M-003).
    """
    parameters = config.section("rope_parameters")
    return parameters.section(kind) if kind in parameters else None


def _n_dense(config: Document) -> int:
    if "mlp_layer_types" not in config:
        raise config.missing("mlp_layer_types")
    return mixture.n_dense(config, is_written=False) or 0


def _heads(config: Document) -> list[int]:
    """Number of query heads of each layer."""
    said = config.items("num_attention_heads_per_layer") or [n_heads(config)] * n_layers(config)
    for i, n in enumerate(said):
        if not isinstance(n, int) or isinstance(n, bool) or not 0 < n < 2**16:
            raise config.wrong("num_attention_heads_per_layer", n, "an integer from 1 to 65535", i)
    if len(said) != n_layers(config):
        raise config.wrong("num_attention_heads_per_layer", len(said), f"{n_layers(config)} numbers")
    return [int(n) for n in said]


def gates(config: Document) -> list[bool]:
    """For each layer, whether each number of a head has a gate of its own; else each head has one.

    config: config.json.

    Raises InvalidError (M-002, M-003), UnsupportedError (M-009) where programs would take one for the other.
    """
    gating, n = config.value("gating"), n_layers(config)
    kinds = config.items("gating_types") or [gating if isinstance(gating, str) else "per_head"] * n
    if gating is None and not config.items("gating_types"):
        raise config.missing("gating")
    names = [kind.replace("-", "_") if isinstance(kind, str) else "" for kind in kinds]
    if len(names) != n or not set(names) <= {"per_head", "per_element"} or gating is False:
        raise config.wrong("gating_types", kinds, f"per_head or per_element for each of {n} layers")
    is_fine = isinstance(gating, str) and gating.replace("-", "_") == "per_element"
    if "per_element" in names and not is_fine:
        message = "other programs would take the gates of elements for gates of heads"
        finding = Finding("M-009", message, config.at("gating"), found=gating, expected="per-element")
        raise UnsupportedError(config.file, finding)
    return [name == "per_element" for name in names]


def rules(p: Parameters) -> Rules:
    """A decoder with norms of heads, as many of them as a layer has, and a gate on what attention gives."""
    kinds = gates(p.config) if p.config is not None else []
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from _gate(p, i, kinds[i] if i < len(kinds) else None)
        if mixture.is_dense(p, i):
            yield from decoder.feed_forward(p, i, bias=False)
        else:
            shared, bias = "shared_expert", "experts.e_score_correction_bias"
            width = p.integer("expert_shared_feed_forward_length", 0)
            yield from mixture.rules(p, i, bias=bias, shared=shared, shared_width=width)


def _gate(p: Parameters, i: int, is_wide: bool | None) -> Iterator[Rule]:
    """The gate of a layer: of each number, or of each head; None if a file does not say it."""
    names = (f"model.layers.{i}.self_attn.g_proj", f"blk.{i}.attn_gate")
    for wide, rows in ((False, p.heads(i)), (True, p.heads(i) * p.head_dim)):
        if is_wide is None or is_wide == wide:
            for rule in optional(linear(*names, rows, p.hidden, bias=False), needed=is_wide is not None):
                if isinstance(rule, Rule):
                    yield rule


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.json; the end of a turn is a control token."""
    keys = bpe_metadata(files)
    texts, types = keys["tokenizer.ggml.tokens"].value, list(keys["tokenizer.ggml.token_type"].value)
    for token, text in enumerate(texts):
        if text == END_OF_TURN:
            types[token] = int(TokenType.CONTROL)
    keys["tokenizer.ggml.token_type"] = array(ValueType.INT32, types)
    return keys


ARCHITECTURE = Architecture(
    name="laguna",
    classes=("LagunaForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
)
