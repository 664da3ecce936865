"""Nemotron-H and Nemotron 3: layers of Mamba-2, of attention, and of networks or experts, one part each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gguflow.container.metadata import Metadata, boolean, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, hidden_size, n_heads, n_kv_heads
from gguflow.models.parameters import MAX_LAYERS, Parameters
from gguflow.models.rules import linear, same, stack
from gguflow.models.state_space import CONTEXT, mamba2, n_rows, with_padding
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles

MAMBA, ATTENTION, NETWORK, EXPERTS = "mamba", "attention", "mlp", "moe"
KINDS = {
    **dict.fromkeys(("M", "mamba", "linear_attention"), MAMBA),
    **dict.fromkeys(("*", "attention", "full_attention"), ATTENTION),
    **dict.fromkeys(("-", "mlp"), NETWORK),
    **dict.fromkeys(("E", "moe"), EXPERTS),
}
"""The kinds of layers: letters of a pattern, and names in a list."""

SHARED, LATENT = "expert_shared_feed_forward_length", "moe_latent_size"


def has_experts(config: Document) -> bool:
    """Whether a configuration is that of a mixture of experts."""
    return "num_experts_per_tok" in config


def layer_kinds(config: Document) -> list[str]:
    """The kind of each layer. Raises InvalidError (M-002, M-003), UnsupportedError (M-008)."""
    key = config.first(("hybrid_override_pattern", "layers_block_type")) or "hybrid_override_pattern"
    value = config.value(key)
    pattern: list[Any] = list(value) if isinstance(value, str) else config.items(key)
    if not pattern or len(pattern) > MAX_LAYERS:
        raise config.wrong(key, value, f"the kinds of 1 to {MAX_LAYERS} layers")
    wanted, message = (EXPERTS, "without experts") if has_experts(config) else (NETWORK, "of experts")
    for i, letter in enumerate(pattern):
        kind = KINDS.get(letter) if isinstance(letter, str) else None
        if kind is None:
            raise config.wrong(key, letter, ", ".join(KINDS), i)
        if kind not in (MAMBA, ATTENTION, wanted):
            finding = Finding("M-008", f"llama.cpp has no layers {message} in this model", config.at(key, i))
            raise UnsupportedError(config.file, finding)
    return [KINDS[letter] for letter in pattern]


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of a dense model."""
    return keys_of("nemotron_h", config)


def metadata_moe(config: Document, directory: Path) -> Metadata:
    """The keys of a mixture of experts."""
    return keys_of("nemotron_h_moe", config)


def keys_of(name: str, config: Document) -> Metadata:
    """The base keys, those of Mamba-2, and of what each layer is; nothing rotates.

    name: `general.architecture`.
    config: config.json.

    Raises InvalidError (M-002, M-003), UnsupportedError (M-008, M-009).
    """
    message = "llama.cpp computes the square of ReLU in all models of this family"
    config.require("mlp_hidden_act", ("relu2",), "M-009", message)
    if config.integer("num_nextn_predict_layers", 0, minimum=0) and config.next_tokens:
        message = "blocks that predict further tokens are not converted for this family; leave them out"
        where = config.at("num_nextn_predict_layers")
        raise UnsupportedError(config.file, Finding("M-008", message, where))
    if not has_experts(config):
        config = replace(config, defaults={})  # which are those of a mixture of experts
    kinds = layer_kinds(config)
    keys = base_keys(name, config, activation=None, rope=None, layers=len(kinds))
    keys.number("rope.freq_base", "rope_theta")
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("rope.dimension_count", u32(hidden_size(config) // n_heads(config)))
    keys.put("ssm.conv_kernel", u32(config.integer("conv_kernel")))
    keys.put("ssm.state_size", u32(config.integer("ssm_state_size")))
    keys.put("ssm.group_count", u32(config.integer("n_groups")))
    heads = config.integer("mamba_num_heads")
    keys.put("ssm.inner_size", u32(heads * config.integer("mamba_head_dim")))
    keys.put("ssm.time_step_rank", u32(heads))
    each = [n_kv_heads(config) if kind == ATTENTION else 0 for kind in kinds]
    keys.layers("attention.head_count_kv", each)
    rotates = MAMBA not in kinds
    keys.put("rope.scaling.finetuned", boolean(rotates))
    if not rotates:
        keys.put("context_length", u32(CONTEXT))
    width = config.integer(config.first(("head_dim", "attention_head_dim")) or "head_dim")
    keys.put("attention.key_length", u32(width))
    keys.put("attention.value_length", u32(width))
    wide = config.integer("moe_intermediate_size" if has_experts(config) else "intermediate_size")
    keys.layers("feed_forward_length", [wide if kind in (NETWORK, EXPERTS) else 0 for kind in kinds])
    if has_experts(config):
        keys.put("expert_feed_forward_length", u32(wide))
        keys.put(SHARED, u32(config.integer("moe_shared_expert_intermediate_size")))
        keys.put("expert_shared_count", u32(config.integer("n_shared_experts")))
        keys.put("expert_weights_norm", boolean(config.flag("norm_topk_prob")))
        keys.put("expert_weights_scale", f32(config.number("routed_scaling_factor")))
        keys.integer(LATENT, "moe_latent_size")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A layer is attention if it has key heads, a network or experts if it has a width, else Mamba-2."""
    yield same("backbone.embeddings.weight", "token_embd.weight", (n_rows(p), p.hidden))
    yield from decoder.norm(p, "backbone.norm_f", "output_norm")
    yield same("lm_head.weight", "output.weight", (n_rows(p), p.hidden), required=not p.is_tied)
    for i in range(p.n_layers):
        layer, block = f"backbone.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.norm", f"{block}.attn_norm")
        source = f"{layer}.mixer"
        if p.kv_heads(i):
            yield from decoder.attention(p, i, source=source, rotate=True)
        elif not p.wide(i):
            yield from mamba2(p, i, source)
        elif p.n_experts:
            yield from experts(p, i, source)
        else:
            yield from decoder.feed_forward(p, i, source=source, names=("", "up_proj", "down_proj"))


def experts(p: Parameters, i: int, source: str) -> Rules:
    """Experts without gates, beside a shared one; they may work on a narrower stream."""
    block, names = f"blk.{i}", ("", "up_proj", "down_proj")
    yield from decoder.router(p, i, source=f"{source}.gate")
    bias = f"{block}.exp_probs_b.bias"
    yield same(f"{source}.gate.e_score_correction_bias", bias, (p.n_experts,))
    shared = p.integer(SHARED)
    name = f"{source}.shared_experts"
    yield from decoder.feed_forward(p, i, source=name, names=names, width=shared, suffix="_shexp")
    latent = p.integer(LATENT, 0)
    if latent:
        yield from linear(
            f"{source}.fc1_latent_proj", f"{block}.ffn_latent_down", latent, p.hidden, bias=False
        )
        yield from linear(f"{source}.fc2_latent_proj", f"{block}.ffn_latent_up", p.hidden, latent, bias=False)
    n_in = latent or p.hidden
    for kind, shape in (("up", (p.wide(i), n_in)), ("down", (n_in, p.wide(i)))):
        each = [f"{source}.experts.{x}.{kind}_proj.weight" for x in range(p.n_experts)]
        yield stack(each, f"{block}.ffn_{kind}_exps.weight", shape)


def rename(name: str, config: Document) -> str | None:
    """The names of the first release; blocks that predict further tokens are left out."""
    if name.startswith("mtp."):
        return None
    if name.startswith(("model.layers.", "model.embeddings.", "model.norm_f.")):
        name = name.replace("model.", "backbone.", 1)
    return name.replace("e_score_correction.bias", "e_score_correction_bias")


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Byte-level BPE, as long as the embeddings."""
    return bpe_metadata(with_padding(files, 8))


def choose(config: Document, directory: Path) -> Architecture:
    """The mixture of experts is another architecture."""
    return MOE if has_experts(config) else DENSE


REQUIRED = (
    *("block_count", "context_length", "embedding_length", "attention.layer_norm_rms_epsilon"),
    *("ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "ssm.group_count"),
)

DENSE = Architecture(
    name="nemotron_h",
    classes=("NemotronHForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=rename,
    required=REQUIRED,
    choose=choose,
)
MOE = Architecture(
    name="nemotron_h_moe",
    classes=(),
    metadata=metadata_moe,
    rules=rules,
    tokenizer=tokenizer,
    rename=rename,
    required=(*REQUIRED, "expert_count"),
)

ARCHITECTURES = (DENSE, MOE)
