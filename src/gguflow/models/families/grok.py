"""Grok 1 and 2: mixtures of experts with four norms in each block, and caps of logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GELU, base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.variants import sentencepiece_or_bpe_metadata

ROPE = RopeOptions(kinds=("default",), read=frozenset(("rope_type",)))
YARN = ("yarn", "original")
"""Names of one scaling, which stands beside the base of the frequencies."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, caps and scales."""
    keys = base_keys("grok", config, activation=GELU, rope=ROPE)
    if config.text("model_type", "") == "git":  # in transformers another model, which has this epsilon
        keys.number("attention.layer_norm_epsilon", "layer_norm_eps", default=1e-12)
    keys.number("attn_logit_softcapping", "attn_logit_softcapping", default=30.0)
    keys.number("router_logit_softcapping", "router_logit_softcapping", default=30.0)
    if config.number("final_logit_softcapping", 0.0):
        keys.number("final_logit_softcapping", "final_logit_softcapping")
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    if config.text("rope_type", "default") in YARN:
        keys.text("rope.scaling.type", "yarn")
        keys.put("rope.scaling.factor", f32(config.number("scaling_factor")))
        original = config.integer("original_max_position_embeddings")
        keys.put("rope.scaling.original_context_length", u32(original))
        keys.put("rope.scaling.yarn_ext_factor", f32(config.number("extrapolation_factor")))
        keys.put("rope.scaling.yarn_attn_factor", f32(config.number("attn_factor")))
        keys.put("rope.scaling.yarn_beta_fast", f32(config.number("beta_fast")))
        keys.put("rope.scaling.yarn_beta_slow", f32(config.number("beta_slow")))
    if config.integer("attn_temperature_len", 0, minimum=0):
        keys.integer("attention.temperature_length", "attn_temperature_len")
    scale = head_dim(config) ** -0.5
    keys.put("attention.output_scale", f32(config.number("attn_output_multiplier", scale)))
    keys.put("embedding_scale", f32(config.number("embedding_multiplier_scale")))
    keys.put("logit_scale", f32(config.number("output_multiplier_scale")))
    return keys.metadata


@dataclass(frozen=True)
class _Layout:
    """The names of one generation.

    ends: of the embeddings and the last norm.
    block: what names of a block begin with.
    norms: of those before and after attention, and before the experts.
    last_norm: of that after the experts, and its name in GGUF.
    attention: what names of attention begin with, then those of its matrices.
    router: of the router.
    experts: what names of experts begin with, then those of gate, up and down.
    """

    ends: tuple[str, str]
    block: str
    norms: tuple[str, str, str]
    last_norm: tuple[str, str]
    attention: tuple[str, tuple[str, str, str, str]]
    router: str
    experts: tuple[str, tuple[str, str, str]]


GROK_1 = _Layout(
    ("transformer.in_out_embed", "transformer.rms_norm"),
    "transformer.decoder_layer.{i}",
    ("rms_norm", "rms_norm_1", "rms_norm_2"),
    ("rms_norm_3", "layer_output_norm"),
    ("multi_head_attention", ("query", "key", "value", "linear")),
    "router",
    ("moe", ("linear", "linear_v", "linear_1")),
)
GROK_2 = _Layout(
    ("model.embed_tokens", "model.norm"),
    "model.layers.{i}",
    ("pre_attn_norm", "post_attn_norm", "pre_moe_norm"),
    ("post_moe_norm", "post_ffw_norm"),
    ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    "block_sparse_moe.gate",
    ("block_sparse_moe.experts", ("w1", "w3", "w2")),
)


def rules(p: Parameters, layouts: tuple[_Layout, ...] = (GROK_2, GROK_1)) -> Rules:
    """Grok 2 has a dense network beside the experts.

    p: hyper-parameters.
    layouts: by preference on the way back.
    """
    yield same("lm_head.weight", "output.weight", (p.n_tokens, p.hidden), required=False)
    for layout in layouts:
        embeddings, norm = layout.ends
        yield same(f"{embeddings}.weight", "token_embd.weight", (p.n_tokens, p.hidden))
        yield same(f"{norm}.weight", "output_norm.weight", (p.hidden,))
        for i in range(p.n_layers):
            yield from _block(p, i, layout)
    for i in range(p.n_layers):
        wide, hidden = p.wide(i), p.hidden
        for name, n_out, n_in in (("gate", wide, hidden), ("up", wide, hidden), ("down", hidden, wide)):
            source, target = f"model.layers.{i}.mlp.{name}_proj", f"blk.{i}.ffn_{name}"
            yield from linear(source, target, n_out, n_in, bias=False, required=False)


def _block(p: Parameters, i: int, layout: _Layout) -> Rules:
    source, block = layout.block.replace("{i}", str(i)), f"blk.{i}"
    for name, target in zip(layout.norms, ("attn_norm", "attn_output_norm", "ffn_norm"), strict=True):
        yield from decoder.norm(p, f"{source}.{name}", f"{block}.{target}")
    name, target = layout.last_norm
    yield same(f"{source}.{name}.weight", f"{block}.{target}.weight", (p.hidden,), required=False)
    name, matrices = layout.attention
    yield from decoder.attention(
        p, i, source=f"{source}.{name}", names=matrices, qkv_bias=False, output_bias=False
    )
    yield from decoder.router(p, i, source=f"{source}.{layout.router}")
    name, experts = layout.experts
    yield from decoder.experts(p, i, source=f"{source}.{name}", names=experts)


def old_rules(p: Parameters) -> Rules:
    """The same, with the names of Grok 1 on the way back."""
    return rules(p, (GROK_1, GROK_2))


_GROK_2 = Architecture(
    name="grok",
    classes=("Grok1ForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=sentencepiece_or_bpe_metadata,
)

ARCHITECTURES = (_GROK_2, replace(_GROK_2, classes=("GrokForCausalLM",), rules=old_rules, is_main=False))
