"""DeepSeek-V2, V3 and R1, Kimi K2, K2.5 and VL, Youtu, and GLM-4.7-Flash: latent attention and experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, f32, u32
from gguflow.models import decoder, mixture, mla, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, base_keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import Given, Rule
from gguflow.models.tokenizers.tiktoken import kimi_metadata
from gguflow.models.tokenizers.variants import glm_metadata

ROPE = RopeOptions(partial=True, read=frozenset(("mscale", "mscale_all_dim")))
"""Of latent attention: which part of a head rotates is said by qk_rope_head_dim."""


def latent_keys(name: str, config: Document, n_next: int = 0) -> Keys:
    """The keys of a model with latent attention; llama.cpp sees one key head.

    name: `general.architecture`.
    config: config.json.
    n_next: number of blocks that predict further tokens.

    Raises as `base_keys`.
    """
    one_head = config.with_values(num_key_value_heads=1, rms_norm_eps=config.number("rms_norm_eps", 1e-6))
    keys = base_keys(name, one_head, rope=ROPE, layers=n_layers(config) + n_next)
    dense_keys(keys)
    mla.put_ranks(keys)
    expert_keys(keys)
    keys.put("rope.dimension_count", u32(config.integer("qk_rope_head_dim", minimum=0)))
    scaling = config.section(
        "rope_parameters" if config.section("rope_parameters").values else "rope_scaling"
    )
    if "mscale_all_dim" in scaling:
        keys.put("rope.scaling.yarn_log_multiplier", f32(0.1 * scaling.number("mscale_all_dim")))
    return keys


def dense_keys(keys: Keys) -> None:
    """The number of dense blocks before the others, by default all of a model without experts."""
    config = keys.config
    has_experts = config.value("n_routed_experts") is not None
    n_dense = mixture.n_dense(config, default=0 if has_experts else n_layers(config))
    keys.put("leading_dense_block_count", u32(n_dense or 0))
    keys.put("vocab_size", u32(config.integer("vocab_size")))


def expert_keys(keys: Keys) -> None:
    """The keys for experts that the base table has not."""
    config = keys.config
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", "intermediate_size", minimum=1)
    keys.integer("expert_count", "n_routed_experts")
    keys.integer("expert_shared_count", "n_shared_experts", default=0)
    keys.number("expert_weights_scale", "routed_scaling_factor")
    if config.flag("norm_topk_prob", False):
        keys.put("expert_weights_norm", boolean(True))


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of latent attention and of experts."""
    return latent_keys("deepseek2", config).metadata


def metadata_with_next(config: Document, directory: Path) -> Metadata:
    """The same, with blocks that predict further tokens."""
    n = next_tokens.n_next(config)
    keys = latent_keys("deepseek2", config, n)
    next_tokens.put_number(keys, n, writes_zero=False)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Dense blocks, then blocks of experts, then those that predict further tokens."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from block(p, i)


def block(p: Parameters, i: int) -> Iterator[Rule | Given]:
    """One block; of one that predicts further tokens all that it has."""
    yield from decoder.norms(p, i)
    yield from mla.rules(p, i)
    if mixture.is_dense(p, i):
        yield from decoder.feed_forward(p, i, bias=False)
    else:
        yield from mixture.rules(p, i)
    if next_tokens.is_next(p, i):
        yield from next_tokens.rules(p, i)


def rename(name: str, config: Document) -> str | None:
    """Leave out a head that is tied to the embeddings, and blocks that predict further tokens."""
    name = text_name(name)
    return None if is_tied_head(name, config) or next_tokens.left_out(name, config) else name


def rename_with_next(name: str, config: Document) -> str | None:
    """Leave out a head that is tied to the embeddings."""
    name = text_name(name)
    return None if is_tied_head(name, config) else name


def text_name(name: str) -> str:
    """The name of a tensor in a model that has nothing but text."""
    return name.removeprefix("language_model.").replace("model.language_model.", "model.")


def is_tied_head(name: str, config: Document) -> bool:
    """Whether a tensor is an output matrix that llama.cpp takes from the embeddings."""
    is_head = name in ("lm_head.weight", "model.lm_head.weight")
    return is_head and config.flag("tie_word_embeddings", False)


ARCHITECTURES = (
    Architecture(
        name="deepseek2",
        classes=(
            "DeepseekV2ForCausalLM",
            "DeepseekV3ForCausalLM",
            "KimiVLForConditionalGeneration",
            "KimiK25ForConditionalGeneration",
            "YoutuForCausalLM",
            "YoutuVLForConditionalGeneration",
        ),
        metadata=metadata,
        rules=rules,
        tokenizer=kimi_metadata,
        rename=rename,
        skipped=(
            r"(?:model\.)?(?:vision_tower|multi_modal_projector|mm_projector|siglip2|merger|visual)\..*",
        ),
    ),
    Architecture(
        name="deepseek2",
        classes=("Glm4MoeLiteForCausalLM",),
        metadata=metadata_with_next,
        rules=rules,
        tokenizer=glm_metadata,
        rename=rename_with_next,
        is_main=False,
    ),
)
