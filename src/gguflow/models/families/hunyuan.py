"""Tencent's Hunyuan: dense, with experts (A13B), with vision, and the third version (Hy3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, f32, string, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder, mixture, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GATING_FUNCTIONS, Keys, base_keys, head_dim, hidden_size, n_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import Given, Rule, optional, same
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.tiktoken import hunyuan_metadata

UNSCALED = RopeOptions(kinds=("default",), sections=True)

LONG_CONTEXT = 256 * 1024
"""What models with the scaling "dynamic" are made for; their config.json says less."""


def dense_metadata(config: Document, directory: Path) -> Metadata:
    """The base keys; a single expert is none."""
    return _dense_keys("hunyuan-dense", config).metadata


def vision_metadata(config: Document, directory: Path) -> Metadata:
    """The same for a model with vision, whose positions may have several dimensions."""
    return _dense_keys("hunyuan_vl", config).metadata


def _dense_keys(name: str, config: Document) -> Keys:
    if config.integer("num_experts", 1, minimum=0) <= 1:
        config = config.with_values(num_experts=None)
    scaled, plain = without_alpha(config)
    keys = base_keys(name, plain, rope=UNSCALED)
    if scaled is not None:
        _put_alpha(keys, scaled, head_dim(config), 50.0)
    return keys


def without_alpha(config: Document) -> tuple[Document | None, Document]:
    """The parameters of a scaling by "alpha", None if there is none, and config.json without it.

    config: config.json.

    Raises InvalidError (M-003).
    """
    names = ("rope_parameters", "rope_scaling")
    said = next((config.section(name) for name in names if config.section(name).values), None)
    if said is None or said.value("rope_type" if "rope_type" in said else "type") not in (
        "dynamic",
        "xdrope",
    ):
        return None, config
    theta = said.number("rope_theta", config.number("rope_theta", 10000.0))
    kept = config.with_values(rope_parameters=None, rope_scaling=None, rope_theta=theta)
    return said.with_values(rope_theta=theta), kept


def _put_alpha(keys: Keys, scaled: Document, width: int, default: float) -> None:
    """The keys of this scaling: a larger base, or positions of several dimensions.

    keys: where they are put.
    scaled: its parameters.
    width: of a head.
    default: the factor, if config.json does not say it.

    Raises InvalidError (M-003), UnsupportedError (M-005).
    """
    config, base = keys.config, scaled.number("rope_theta")
    context = config.integer("max_position_embeddings")
    sections = scaled.items("xdrope_section") or scaled.items("mrope_section")
    alpha = scaled.number("alpha", default)
    if sections:
        for i, n in enumerate(sections):
            if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= width:
                raise scaled.wrong("xdrope_section", n, f"an integer from 0 to {width}", i)
        keys.put("rope.scaling.type", string("none"))
        keys.put("rope.scaling.factor", f32(scaled.number("factor", 1.0)))
        keys.put("rope.scaling.original_context_length", u32(context))
        keys.put("rope.scaling.alpha", f32(alpha))
        keys.layers("rope.dimension_sections", [*sections, 0, 0, 0, 0][:4])
        return
    if base != 10000.0 or context not in (LONG_CONTEXT // 8, LONG_CONTEXT) or width <= 2 or alpha <= 0:
        message = (
            "what the scaling by alpha means is known for a base of 10000 and contexts of 32k and 256k only"
        )
        finding = Finding("M-005", message, scaled.at("alpha"), found=f"base {base:g}, context {context}")
        raise UnsupportedError(config.file, finding)
    keys.put("rope.freq_base", f32(base * alpha ** (width / (width - 2))))
    keys.put("rope.scaling.type", string("none"))
    keys.put("rope.scaling.factor", f32(1.0))
    keys.put("rope.scaling.original_context_length", u32(LONG_CONTEXT))
    keys.put("context_length", u32(LONG_CONTEXT))


def moe_metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for experts, which are lists with equal values for all blocks."""
    scaled, plain = without_alpha(config)
    keys = base_keys("hunyuan-moe", plain, rope=UNSCALED)
    keys.put("expert_shared_feed_forward_length", u32(config.integer("intermediate_size")))
    wide = _of_all_blocks(config, "moe_intermediate_size", config.integer("intermediate_size"))
    keys.put("expert_feed_forward_length", u32(wide))
    keys.put("expert_used_count", u32(_of_all_blocks(config, "moe_topk")))
    keys.put("expert_shared_count", u32(_of_all_blocks(config, "num_shared_expert", 1)))
    if scaled is not None:
        _put_alpha(keys, scaled, hidden_size(config) // n_heads(config), 1000.0)
    return keys.metadata


def _of_all_blocks(config: Document, key: str, default: int | None = None) -> int:
    """A number, or a list of equal numbers. Raises InvalidError (M-002, M-003), UnsupportedError (M-009)."""
    if not isinstance(config.value(key), list):
        return config.integer(key, default)
    numbers = config.items(key)
    for i, number in enumerate(numbers):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**31:
            raise config.wrong(key, number, "an integer from 1 to 2147483647", i)
        if number != numbers[0]:
            message = "llama.cpp has the same experts in all blocks of this family of models"
            finding = Finding("M-009", message, config.at(key, i), found=number, expected=numbers[0])
            raise UnsupportedError(config.file, finding)
    if not numbers:
        raise config.missing(key)
    return int(numbers[0])


def v3_metadata(config: Document, directory: Path) -> Metadata:
    """Hy3: the base keys, then those for experts, chosen by a sigmoid."""
    n = next_tokens.n_next(config)
    keys = base_keys("hy_v3", config, layers=n_layers(config) + n)
    wide = config.integer("moe_intermediate_size")
    keys.put("expert_feed_forward_length", u32(wide))
    keys.put(
        "expert_shared_feed_forward_length", u32(wide * config.integer("num_shared_experts", 1, minimum=0))
    )
    keys.put("expert_weights_norm", boolean(config.flag("route_norm", True)))
    keys.put("expert_weights_scale", f32(config.number("router_scaling_factor", 1.0)))
    keys.put("expert_gating_func", u32(GATING_FUNCTIONS["sigmoid"]))
    next_tokens.put_number(keys, n, writes_zero=False)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder with norms of heads after the rotation; with experts in all blocks, or in none."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        attention = f"model.layers.{i}.self_attn"
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i)
        for name, x in (("query", "q"), ("key", "k")):
            target = f"blk.{i}.attn_{x}_norm.weight"
            yield same(f"{attention}.{name}_layernorm.weight", target, (p.head_dim,))
        if p.n_experts:
            shared = p.integer("expert_shared_feed_forward_length", 0)
            yield from mixture.rules(p, i, gate="gate.wg", bias="", shared="shared_mlp", shared_width=shared)
        else:
            yield from decoder.feed_forward(p, i)


def v3_rules(p: Parameters) -> Rules:
    """A decoder with norms of heads, dense blocks first; a GGUF file does not say how many they are."""
    n_dense = None
    if p.config is not None:
        n_dense = mixture.n_dense(p.config, default=0, is_written=False)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        if n_dense is None or i < n_dense:
            yield from optional(decoder.feed_forward(p, i, bias=False), needed=n_dense is not None)
        if n_dense is None or i >= n_dense:
            yield from optional(_v3_experts(p, i), needed=n_dense is not None)
        if next_tokens.is_next(p, i):
            yield from next_tokens.rules(p, i, names=("eh_proj", "enorm", "hnorm", "final_layernorm"))


def _v3_experts(p: Parameters, i: int) -> Iterator[Rule | Given]:
    """Experts; the name of the router's bias has no suffix in llama.cpp."""
    source = f"model.layers.{i}.mlp"
    shared = p.integer("expert_shared_feed_forward_length", 0)
    yield from mixture.rules(p, i, gate="router.gate", bias="", shared="shared_mlp", shared_width=shared)
    yield same(f"{source}.expert_bias", f"blk.{i}.exp_probs_b", (p.n_experts,), required=False)


def rename(name: str, config: Document) -> str | None:
    """Leave out a head that is tied to the embeddings."""
    is_tied = name == "lm_head.weight" and config.flag("tie_word_embeddings", False)
    return None if is_tied else name.replace("model.language_model.", "model.")


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.json; the end of a text is config.json's eod_token_id, where it has one."""
    keys = bpe_metadata(files)
    end = files.config.integer("eod_token_id", -1, minimum=-1)
    if 0 <= end < files.n_tokens:
        keys["tokenizer.ggml.eos_token_id"] = u32(end)
    return keys


ARCHITECTURES = (
    Architecture(
        name="hunyuan-dense",
        classes=("HunYuanDenseV1ForCausalLM",),
        metadata=dense_metadata,
        rules=rules,
        tokenizer=tokenizer,
        rename=rename,
    ),
    Architecture(
        name="hunyuan_vl",
        classes=("HunYuanVLForConditionalGeneration",),
        metadata=vision_metadata,
        rules=rules,
        tokenizer=tokenizer,
        rename=rename,
        skipped=(r"(?:model\.)?vit\..*",),
    ),
    Architecture(
        name="hunyuan-moe",
        classes=("HunYuanMoEV1ForCausalLM",),
        metadata=moe_metadata,
        rules=rules,
        tokenizer=hunyuan_metadata,
        rename=rename,
    ),
    Architecture(
        name="hy_v3",
        classes=("HYV3ForCausalLM",),
        metadata=v3_metadata,
        rules=v3_rules,
        tokenizer=bpe_metadata,
    ),
)
