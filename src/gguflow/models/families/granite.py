"""IBM Granite: dense, of experts, hybrid with Mamba-2, with sliding windows; and Bamba, their predecessor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies, llama_keys, tokenizer
from gguflow.models.keys import Keys, hidden_size, n_heads, n_kv_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions
from gguflow.models.rules import same, split, split_inside
from gguflow.models.sliding import sliding_window
from gguflow.models.state_space import CONTEXT, mamba2, with_padding
from gguflow.models.text_parts import text_name
from gguflow.models.tokenizers.files import TokenizerFiles

ROPE = RopeOptions(kinds=("default", "linear", "dynamic", "yarn", "llama3"), partial=True)
SHARED = "expert_shared_feed_forward_length"
SCALES = (
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
)


def granite_keys(name: str, config: Document) -> Keys:
    """Llama's keys, and Granite's four scales; a scale of zero is none.

    name: `general.architecture`.
    config: config.json.

    Raises what `base_keys` raises.
    """
    keys = llama_keys(name, config, rope=ROPE)
    keys.drop("attention.key_length")
    keys.drop("attention.value_length")
    keys.put("rope.dimension_count", u32(hidden_size(config) // n_heads(config)))
    for key, source in SCALES:
        if config.number(source, 0.0):
            keys.number(key, source)
    if config.integer("shared_intermediate_size", 0, minimum=0):
        keys.integer(SHARED, "shared_intermediate_size")
    return keys


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of a dense model."""
    return granite_keys("granite", config).metadata


def metadata_moe(config: Document, directory: Path) -> Metadata:
    """The keys of a model of experts."""
    return granite_keys("granitemoe", config).metadata


def rules(p: Parameters) -> Rules:
    """Llama's blocks, with experts or without."""
    yield from frequencies(p, ROPE)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, rotate=True)
        yield from network(p, i)


def network(p: Parameters, i: int, source: str = "model.layers.{i}.mlp") -> Rules:
    """Experts, a network beside them that all tokens pass, or one network; gate and up are one matrix.

    p: hyper-parameters.
    i: number of the layer.
    source: what the names of a plain network begin with in the checkpoint; {i} is the layer.
    """
    plain = source
    layer, block = f"model.layers.{i}", f"blk.{i}"
    shared = p.integer(SHARED, 0)
    if p.n_experts:
        wide = p.expert_wide
        source = f"{layer}.block_sparse_moe"
        yield from decoder.router(p, i, source=f"{source}.router.layer")
        gate_up = [(f"{block}.ffn_{kind}_exps.weight", wide) for kind in ("gate", "up")]
        yield split_inside(f"{source}.input_linear.weight", gate_up, p.n_experts, p.hidden)
        down = (p.n_experts, p.hidden, wide)
        yield same(f"{source}.output_linear.weight", f"{block}.ffn_down_exps.weight", down)
    elif not shared:
        yield from decoder.feed_forward(p, i, source=plain)
    if shared:
        suffix = "_shexp" if p.n_experts else ""
        targets = [(f"{block}.ffn_{kind}{suffix}.weight", shared) for kind in ("gate", "up")]
        yield split(f"{layer}.shared_mlp.input_linear.weight", targets, (p.hidden,))
        down_shape = (p.hidden, shared)
        yield same(f"{layer}.shared_mlp.output_linear.weight", f"{block}.ffn_down{suffix}.weight", down_shape)


def attention_layers(config: Document) -> list[int]:
    """Numbers of a hybrid's layers of attention: listed by type, by number, or by period.

    Raises InvalidError (M-002, M-003).
    """
    layers = range(n_layers(config))
    if types := config.items("layer_types"):
        if len(types) != len(layers):
            raise config.wrong("layer_types", len(types), f"one for each of {len(layers)} layers")
        return [i for i in layers if types[i] == "attention"]
    if listed := config.items("attn_layer_indices"):
        return [i for i in layers if i in listed]
    period, offset = config.integer("attn_layer_period"), config.integer("attn_layer_offset", minimum=0)
    return [i for i in layers if i % period == offset]


def hybrid_keys(name: str, config: Document) -> Metadata:
    """Granite's keys, then those of Mamba-2 and of its layers of attention."""
    keys = granite_keys(name, config)
    attention = attention_layers(config)
    is_hybrid = len(attention) < n_layers(config)
    keys.integer("ssm.conv_kernel", "mamba_d_conv")
    keys.integer("ssm.state_size", "mamba_d_state")
    keys.integer("ssm.group_count", "mamba_n_groups")
    keys.put("ssm.inner_size", u32(config.integer("mamba_expand") * hidden_size(config)))
    keys.integer("ssm.time_step_rank", "mamba_n_heads")
    whole = hidden_size(config) // n_heads(config)
    share = Rope.of(config, ROPE).partial if is_hybrid else 1.0
    keys.integer("rope.dimension_count", "attn_rotary_emb", default=int(share * whole))
    if config.integer("attn_rotary_emb", int(share * whole)) != whole:
        config.applied.add("rows-that-rotate")
    each = [n_kv_heads(config) if i in attention else 0 for i in range(n_layers(config))]
    keys.layers("attention.head_count_kv", each)
    rotates = not is_hybrid or class_name(config) == "BambaForCausalLM"
    keys.put("rope.scaling.finetuned", boolean(rotates))
    if not rotates:
        keys.put("context_length", u32(CONTEXT))
    return keys.metadata


def rules_hybrid(p: Parameters) -> Rules:
    """Attention, or Mamba-2 where a layer has no key heads; Bamba's rotates, and has other names."""
    yield from frequencies(p, ROPE)
    is_bamba = p.flag("rope.scaling.finetuned")
    rotated = p.integer("rope.dimension_count", p.head_dim, minimum=2)
    rotated = min(rotated - rotated % 2, p.head_dim)
    yield from decoder.ends(p, norm="model.final_layernorm" if is_bamba else "model.norm")
    second, name = ("pre_ff_layernorm", "feed_forward") if is_bamba else ("post_attention_layernorm", "mlp")
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.{second}", f"{block}.ffn_norm")
        if p.kv_heads(i):
            yield from decoder.attention(p, i, rotate=True, rotated=rotated)
        else:
            yield from mamba2(p, i, f"{layer}.mamba")
        yield from network(p, i, source=f"{layer}.{name}")


def hybrid_tokenizer(files: TokenizerFiles) -> Metadata:
    """Llama's tokenizer, as long as the embeddings."""
    return tokenizer(with_padding(files, 8))


def choose(config: Document, directory: Path) -> Architecture:
    """A hybrid whose layers are all of attention is a plain model, of experts or dense."""
    if len(attention_layers(config)) < n_layers(config):
        return HYBRID
    return PLAIN_MOE if config.integer("num_experts_per_tok", 0, minimum=0) else PLAIN


def metadata_swa(config: Document, directory: Path) -> Metadata:
    """Granite's keys, those of sliding windows, and which layers rotate."""
    shared = config.integer("shared_intermediate_size", 0, minimum=0)
    keys = granite_keys("granite_swa", config)
    keys.drop(SHARED)
    sliding_window(keys, [i % 4 != 0 for i in range(n_layers(config))])
    rotating: Sequence[object] = config.items("no_rope_layers")
    keys.layers("attention.rope_pattern", [bool(x) for x in itertools.islice(rotating, n_layers(config))])
    if shared and class_name(config) == "GraniteMoeSWAForCausalLM":
        keys.put(SHARED, u32(shared))
    return keys.metadata


def rules_swa(p: Parameters) -> Rules:
    """Granite with attention sinks; gate and up stay one matrix, of experts and of the shared network."""
    yield from frequencies(p, ROPE)
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, rotate=True)
        sinks = f"{layer}.self_attn.sinks"
        yield same(sinks, f"{block}.attn_sinks.weight", (p.heads(i),), required=False)
        if not p.n_experts:
            yield from decoder.feed_forward(p, i)
            continue
        n, wide, source = p.n_experts, p.expert_wide, f"{layer}.block_sparse_moe"
        for router in ("router", "router.layer"):
            yield from decoder.router(p, i, source=f"{source}.{router}")
        for gate_up in ("experts.gate_up_proj", "input_linear.weight"):
            whole = (n, 2 * wide, p.hidden)
            yield same(f"{source}.{gate_up}", f"{block}.ffn_gate_up_exps.weight", whole)
        for down in ("experts.down_proj", "output_linear.weight"):
            yield same(f"{source}.{down}", f"{block}.ffn_down_exps.weight", (n, p.hidden, wide))
        if shared := p.integer(SHARED, 0):
            source = f"{layer}.shared_mlp"
            up = f"{block}.ffn_up_shexp.weight"
            yield same(f"{source}.input_linear.weight", up, (2 * shared, p.hidden))
            down = f"{block}.ffn_down_shexp.weight"
            yield same(f"{source}.output_linear.weight", down, (p.hidden, shared))


FREQUENCIES = (r"rope_freqs\.weight",)
OTHER_PARTS = (r"(model\.)?(encoder|projector)\..*", r".*(image_|layerwise_projectors|spatial_projectors).*")

DENSE = Architecture(
    name="granite",
    classes=(
        "GraniteForCausalLM",
        "GraniteSpeechForConditionalGeneration",
        "GraniteSpeechPlusForConditionalGeneration",
    ),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=text_name,
    skipped=OTHER_PARTS,
    computed=FREQUENCIES,
)
MOE = Architecture(
    name="granitemoe",
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    metadata=metadata_moe,
    rules=rules,
    tokenizer=tokenizer,
    rename=text_name,
    skipped=OTHER_PARTS,
    computed=FREQUENCIES,
)
PLAIN = Architecture(
    name="granite",
    classes=(),
    metadata=lambda config, directory: hybrid_keys("granite", config),
    rules=rules,
    tokenizer=tokenizer,
    is_main=False,
    rename=text_name,
    skipped=OTHER_PARTS,
    computed=FREQUENCIES,
)
PLAIN_MOE = Architecture(
    name="granitemoe",
    classes=(),
    metadata=lambda config, directory: hybrid_keys("granitemoe", config),
    rules=rules,
    tokenizer=tokenizer,
    is_main=False,
    rename=text_name,
    skipped=OTHER_PARTS,
    computed=FREQUENCIES,
)
HYBRID = Architecture(
    name="granitehybrid",
    classes=("GraniteMoeHybridForCausalLM", "BambaForCausalLM"),
    metadata=lambda config, directory: hybrid_keys("granitehybrid", config),
    rules=rules_hybrid,
    tokenizer=hybrid_tokenizer,
    rename=text_name,
    skipped=OTHER_PARTS,
    computed=FREQUENCIES,
    choose=choose,
)
SWA = Architecture(
    name="granite_swa",
    classes=("GraniteSWAForCausalLM", "GraniteMoeSWAForCausalLM"),
    metadata=metadata_swa,
    rules=rules_swa,
    tokenizer=tokenizer,
    rename=text_name,
    skipped=OTHER_PARTS,
    computed=FREQUENCIES,
    required=(*DECODER_KEYS, "attention.sliding_window"),
)

ARCHITECTURES = (DENSE, MOE, HYBRID, SWA)
