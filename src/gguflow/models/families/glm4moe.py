"""GLM-4.5 and 4.6, GLM-4.5V, Solar Open: experts beside shared ones, and a block for a next token."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder, mixture, next_tokens
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GATING_FUNCTIONS, base_keys, head_dim, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions
from gguflow.models.rules import same
from gguflow.models.tokenizers.variants import glm_metadata, solar_open_metadata

ROPE = RopeOptions(partial=True, sections=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for experts; the router's function is always a sigmoid."""
    n = next_tokens.n_next(config)
    keys = base_keys("glm4moe", config, rope=ROPE, layers=n_layers(config) + n)
    keys.put("rope.dimension_count", u32(rotated(config, ROPE)))
    keys.integer("expert_count", "n_routed_experts")
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    keys.integer("expert_shared_count", "n_shared_experts")
    n_dense = mixture.n_dense(config)
    if n_dense is not None:
        keys.put("leading_dense_block_count", u32(n_dense))
    keys.put("expert_gating_func", u32(GATING_FUNCTIONS["sigmoid"]))
    keys.number("expert_weights_scale", "routed_scaling_factor")
    keys.flag("expert_weights_norm", "norm_topk_prob")
    next_tokens.put_number(keys, n)
    return keys.metadata


def rotated(config: Document, options: RopeOptions, default: float = 0.5) -> int:
    """How much of a head rotates.

    config: config.json.
    options: of the family's rotary embeddings.
    default: the share, if config.json does not say it.
    """
    rope = Rope.of(config, options)
    is_said = rope.parameters.first(("partial_rotary_factor",)) or config.first(("partial_rotary_factor",))
    return int(head_dim(config) * (rope.partial if is_said else default))


def rules(p: Parameters) -> Rules:
    """Blocks with biases on Q, K and V, perhaps norms of heads; the norm before experts has another name."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.post_attention_layernorm", f"{block}.post_attention_norm")
        yield from decoder.attention(p, i, output_bias=False)
        for x in "qk":
            name = f"{layer}.self_attn.{x}_norm.weight"
            yield same(name, f"{block}.attn_{x}_norm.weight", (p.head_dim,), required=False)
        if mixture.is_dense(p, i):
            yield from decoder.feed_forward(p, i, bias=False)
        else:
            yield from mixture.rules(p, i)
        if next_tokens.is_next(p, i):
            yield from next_tokens.rules(p, i)


def text_name(name: str, config: Document) -> str:
    """The name of a tensor in a model that has nothing but text."""
    return name.replace("model.language_model.", "model.")


VISION = (r"model\.visual\..*",)
"""Tensors of GLM's vision towers."""

REQUIRED = tuple(key for key in DECODER_KEYS if key != "feed_forward_length")
"""Keys of all files; Solar Open has no dense block, and so no width of one."""

ARCHITECTURES = (
    Architecture(
        name="glm4moe",
        classes=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
        metadata=metadata,
        rules=rules,
        tokenizer=glm_metadata,
        required=REQUIRED,
        rename=text_name,
        skipped=VISION,
    ),
    Architecture(
        name="glm4moe",
        classes=("SolarOpenForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=solar_open_metadata,
        required=REQUIRED,
        is_main=False,
    ),
)
