"""Ling and Ring of inclusionAI (Bailing), first and second version, and Sarvam."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gguflow.blocks import FORMATS
from gguflow.container.metadata import Metadata, boolean, f32, u32
from gguflow.models import decoder, mixture, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.glm4moe import rotated
from gguflow.models.keys import Keys, base_keys, head_dim, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import Part, Rule, Views, folded, linear, same
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.views import Fold, Numbers

ROPE = RopeOptions(partial=True, read=frozenset(("rotary_dim",)))


def metadata(config: Document, directory: Path) -> Metadata:
    """The first version: the base keys, then those for experts."""
    keys = base_keys("bailingmoe", config)
    keys.put("rope.dimension_count", u32(head_dim(config)))
    _put_sizes(keys)
    keys.put("expert_weights_scale", f32(1.0))
    _put_shared(keys)
    return keys.metadata


def second_metadata(config: Document, directory: Path) -> Metadata:
    """The second version, of which a part of a head rotates: by default half."""
    return _second_keys(config, rotated(config, ROPE)).metadata


def sarvam_metadata(config: Document, directory: Path) -> Metadata:
    """Sarvam: the same with heads that rotate as a whole."""
    return _second_keys(config, head_dim(config)).metadata


def _second_keys(config: Document, n_rotated: int) -> Keys:
    n = next_tokens.n_next(config)
    keys = base_keys("bailingmoe2", config, rope=ROPE, layers=n_layers(config) + n)
    keys.put("rope.dimension_count", u32(n_rotated))
    _put_sizes(keys)
    wide = config.integer("moe_intermediate_size") * config.integer("num_shared_experts", minimum=0)
    keys.put(
        "expert_shared_feed_forward_length",
        u32(config.integer("moe_shared_expert_intermediate_size", wide, minimum=0)),
    )
    keys.put("expert_weights_scale", f32(config.number("routed_scaling_factor")))
    _put_shared(keys)
    next_tokens.put_number(keys, n)
    return keys


def _put_sizes(keys: Keys) -> None:
    config = keys.config
    keys.put("leading_dense_block_count", u32(config.integer("first_k_dense_replace", minimum=0)))
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("expert_feed_forward_length", u32(config.integer("moe_intermediate_size")))


def _put_shared(keys: Keys) -> None:
    keys.put("expert_shared_count", u32(keys.config.integer("num_shared_experts", minimum=0)))
    keys.put("expert_weights_norm", boolean(keys.config.flag("norm_topk_prob")))


def rules(p: Parameters) -> Rules:
    """The first version: Q, K and V are one matrix; the output matrix may have to be normalized."""
    head = Part("lm_head.weight", (p.n_tokens, p.hidden))
    if p.config is not None and p.config.flag("norm_head", False):
        yield from _ends_without_head(p)
        yield folded([head], Part("output.weight", head.shape), unit_columns)
    else:
        yield from decoder.ends(p, embeddings="model.word_embeddings")
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}.attention", f"blk.{i}"
        yield from decoder.norms(p, i)
        yield from decoder.fused_qkv(p, i, f"{source}.query_key_value", bias=False, rotate=True)
        output = (p.hidden, p.heads(i) * p.value_dim)
        yield from linear(f"{source}.dense", f"{block}.attn_output", *output, bias=False)
        if mixture.is_dense(p, i):
            yield from decoder.feed_forward(p, i, bias=False)
        else:
            yield from mixture.rules(p, i, bias="")


def _ends_without_head(p: Parameters) -> Rules:
    yield same("model.word_embeddings.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield same("model.norm.weight", "output_norm.weight", (p.hidden,))


def unit_columns(matrix: Numbers) -> Numbers:
    """A matrix with columns of length one, in float32.

    matrix: of any shape with two axes.
    """
    numbers = matrix.astype(np.float32)
    length = np.sqrt((numbers * numbers).sum(axis=0, dtype=np.float32)) + np.float32(1e-7)
    result: Numbers = numbers / length
    return result


def second_rules(p: Parameters) -> Rules:
    """The second version: Q, K and V stay one matrix; heads are normalized."""
    yield from _second(p, is_centered=False)


def sarvam_rules(p: Parameters) -> Rules:
    """Sarvam: the same, and the router's bias is taken from its mean."""
    yield from _second(p, is_centered=True)


def _second(p: Parameters, *, is_centered: bool) -> Rules:
    yield from decoder.ends(p, embeddings="model.word_embeddings")
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        source = f"{layer}.attention"
        n_qkv = (p.heads(i) + p.kv_heads(i)) * p.head_dim + p.kv_heads(i) * p.value_dim
        yield from decoder.norms(p, i)
        yield from linear(f"{source}.query_key_value", f"{block}.attn_qkv", n_qkv, p.hidden)
        output = (p.hidden, p.heads(i) * p.value_dim)
        yield from linear(f"{source}.dense", f"{block}.attn_output", *output)
        for name, x in (("query", "q"), ("key", "k")):
            yield same(f"{source}.{name}_layernorm.weight", f"{block}.attn_{x}_norm.weight", (p.head_dim,))
        if mixture.is_dense(p, i):
            yield from decoder.feed_forward(p, i, bias=False)
        else:
            shared = p.integer("expert_shared_feed_forward_length", 0)
            yield from mixture.rules(p, i, bias="", shared_width=shared)
            bias, target = f"{layer}.mlp.gate.expert_bias", f"{block}.exp_probs_b.bias"
            if is_centered:
                yield centered(bias, target, p.n_experts)
            else:
                yield same(bias, target, (p.n_experts,), required=False)
        if next_tokens.is_next(p, i):
            yield from next_tokens.rules(p, i)
            yield same(f"{layer}.final_layernorm.weight", f"{block}.layer_output_norm.weight", (p.hidden,))


def centered(source: str, target: str, n: int) -> Rule:
    """A vector less its mean, both in the number type of the source, as torch computes them.

    The way back leaves it so: only differences between its numbers matter.

    source: in the checkpoint.
    target: in GGUF.
    n: number of weights.
    """

    def forward(views: Views) -> Views:
        is_bfloat = views[0].format.key == "bf16"

        def difference(numbers: Numbers) -> Numbers:
            mean = numbers.astype(np.float32).mean(dtype=np.float32)
            if is_bfloat:
                return _bfloat(numbers - _bfloat(mean))
            result: Numbers = (numbers - mean.astype(numbers.dtype)).astype(np.float32)
            return result

        return (Fold(tuple(views), (n,), FORMATS["f32"], difference),)

    return Rule((Part(source, (n,)),), (Part(target, (n,)),), forward, is_required=False)


def _bfloat(numbers: Numbers) -> Numbers:
    """The nearest bfloat16, ties to even, as float32; for finite numbers."""
    bits = np.atleast_1d(numbers).astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    result: Numbers = rounded.view(np.float32)
    return result


ARCHITECTURES = (
    Architecture(
        name="bailingmoe",
        classes=("BailingMoeForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
    ),
    Architecture(
        name="bailingmoe2",
        classes=("BailingMoeV2ForCausalLM",),
        metadata=second_metadata,
        rules=second_rules,
        tokenizer=bpe_metadata,
    ),
    Architecture(
        name="bailingmoe2",
        classes=("SarvamMoEForCausalLM", "modeling_sarvam_moe.SarvamMoEForCausalLM"),
        metadata=sarvam_metadata,
        rules=sarvam_rules,
        tokenizer=bpe_metadata,
        is_main=False,
    ),
)
