"""Models in Mistral's own form: params.json, and tensors under Mistral's names (`consolidated.safetensors`).

Dense models are Llama's, or Mistral 3's where the scale of attention grows with the context; mixtures of
experts are Mixtral's, or, with latent attention, DeepSeek's. Rows of Q and K are in llama.cpp's order.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata, f32, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families import deepseek2
from gguflow.models.families.llama import llama_keys
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.params import DENSE, LATENT, SCALED
from gguflow.models.rules import Given, Rule
from gguflow.models.tokenizers.mistral import mistral_metadata

_OTHER_INPUTS = (r"(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm)\..*",)


def _dense(name: str, config: Document) -> Metadata:
    keys = llama_keys(name, config)
    _put_yarn(keys)
    return keys.metadata


def _put_yarn(keys: Keys) -> None:
    """The keys about contexts beyond those of the training. Raises InvalidError (M-002, M-003)."""
    config = keys.config
    if "yarn" in config:
        yarn = config.section("yarn")
        keys.put("rope.scaling.type", string("yarn"))
        keys.put("rope.scaling.factor", f32(yarn.number("factor")))
        keys.put("rope.scaling.yarn_beta_fast", f32(yarn.number("beta")))
        keys.put("rope.scaling.yarn_beta_slow", f32(yarn.number("alpha")))
        keys.put("rope.scaling.yarn_log_multiplier", f32(0.0 if yarn.flag("apply_scale") else 1.0))
        original = yarn.integer("original_max_position_embeddings")
        keys.put("rope.scaling.original_context_length", u32(original))
    if "llama_4_scaling" in config:
        keys.put("attention.temperature_scale", f32(config.section("llama_4_scaling").number("beta")))


def _latent(config: Document, directory: Path) -> Metadata:
    """DeepSeek's keys; llama.cpp takes a tenth of the multiplier in this family."""
    keys = deepseek2.latent_keys("deepseek2", config)
    _put_yarn(keys)
    if "yarn" in config:
        original = config.section("yarn").integer("original_max_position_embeddings")
        keys.put("attention.temperature_length", u32(original))
        keys.put("rope.scaling.yarn_log_multiplier", f32(0.1))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Llama's tensors, and Mixtral's experts, under Mistral's names."""
    yield from decoder.ends(p, embeddings="tok_embeddings", norm="norm", head="output")
    for i in range(p.n_layers):
        for source in ("attention", "ffn"):
            target = "attn" if source == "attention" else "ffn"
            yield from decoder.norm(p, f"layers.{i}.{source}_norm", f"blk.{i}.{target}_norm")
        yield from decoder.attention(
            p, i, source="layers.{i}.attention", names=("wq", "wk", "wv", "wo"), output_bias=False
        )
        names, source = ("w1", "w3", "w2"), f"layers.{i}.feed_forward"
        if p.n_experts:
            yield from decoder.router(p, i, source=f"{source}.gate")
            yield from decoder.experts(p, i, source=f"{source}.experts", names=names)
        else:
            yield from decoder.feed_forward(p, i, source=source, names=names, bias=False)


_OF_LATENT = (
    (r"model\.embed_tokens", "tok_embeddings"),
    (r"model\.norm", "norm"),
    (r"lm_head", "output"),
    (r"model\.layers\.", "layers."),
    (r"input_layernorm", "attention_norm"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"self_attn\.([qo])_proj", r"attention.w\1"),
    (r"self_attn\.q_([ab])_proj", r"attention.wq_\1"),
    (r"self_attn\.kv_a_proj_with_mqa", "attention.wkv_a_with_mqa"),
    (r"self_attn\.kv_b_proj", "attention.wkv_b"),
    (r"self_attn\.(q|kv)_a_layernorm", r"attention.\1_a_norm"),
    (r"mlp\.(gate|down|up)_proj", r"feed_forward.\1_proj"),
    (r"mlp\.", ""),
    (r"gate_proj", "w1"),
    (r"down_proj", "w2"),
    (r"up_proj", "w3"),
)
"""What stands in transformers' names of such models, and in Mistral's in its place."""


def latent_rules(p: Parameters) -> Rules:
    """DeepSeek's tensors under Mistral's names."""
    for rule in deepseek2.rules(p):
        yield rule if isinstance(rule, Given) else _renamed(rule)


def _renamed(rule: Rule) -> Rule:
    return replace(rule, sources=tuple(replace(part, name=_native(part.name)) for part in rule.sources))


def _native(name: str) -> str:
    for pattern, new in _OF_LATENT:
        name = re.sub(rf"\b{pattern}" + ("" if pattern.endswith(".") else r"\b"), new, name)
    return name


ARCHITECTURES = (
    Architecture(
        name="llama",
        classes=(DENSE,),
        metadata=lambda config, directory: _dense("llama", config),
        rules=rules,
        tokenizer=mistral_metadata,
        skipped=_OTHER_INPUTS,
        is_main=False,
        is_unnamed=True,
    ),
    Architecture(
        name="mistral3",
        classes=(SCALED,),
        metadata=lambda config, directory: _dense("mistral3", config),
        rules=rules,
        tokenizer=mistral_metadata,
        skipped=_OTHER_INPUTS,
        is_main=False,
        is_unnamed=True,
    ),
    Architecture(
        name="deepseek2",
        classes=(LATENT,),
        metadata=_latent,
        rules=latent_rules,
        tokenizer=mistral_metadata,
        skipped=_OTHER_INPUTS,
        is_main=False,
        is_unnamed=True,
    ),
)
