"""Qwen3-Next and Qwen3.5 (dense and mixture of experts): gated delta nets between layers of attention.

The text model of MiniCPM-V 4.6 is one of them.
"""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, u32
from gguflow.models import decoder, delta_net, next_tokens
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families.qwen2moe import expert_widths, shared_expert
from gguflow.models.keys import Keys, base_keys, head_dim, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import PARTIAL, Rope, RopeOptions
from gguflow.models.text_parts import text_names, towers
from gguflow.models.tokenizers.bpe import bpe_metadata

SECTIONS = (11, 11, 10, 0)
"""How many pairs rotate by each dimension of a position in Qwen3.5, where config.json does not say it."""

ROPE = RopeOptions(partial=True)
MROPE = RopeOptions(partial=True, sections=True)
SHARE = 0.25
"""The part of a head that rotates, where config.json does not say it."""

_MINICPM = "MiniCPMV4_6ForConditionalGeneration"


def metadata(config: Document, directory: Path) -> Metadata:
    """Qwen3-Next: the base keys, those of experts and of delta nets, and which layers are which."""
    return _keys("qwen3next", config, ROPE).metadata


def dense_metadata(config: Document, directory: Path) -> Metadata:
    """Qwen3.5: the same with positions of three dimensions."""
    return _with_sections(_keys("qwen35", config, MROPE))


def moe_metadata(config: Document, directory: Path) -> Metadata:
    """Qwen3.5 as a mixture of experts."""
    return _with_sections(_keys("qwen35moe", config, MROPE))


def _keys(name: str, config: Document, options: RopeOptions) -> Keys:
    n = _n_next(config)
    layers = n_layers(config)
    keys = base_keys(name, config, rope=options, layers=layers + n)
    expert_widths(keys)
    next_tokens.put_number(keys, n, writes_zero=False)
    delta_net.put_keys(keys)
    interval = config.integer("full_attention_interval", 4)
    kinds = config.items("layer_types") or [
        "full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)
    ]
    if len(kinds) != layers:
        raise config.wrong("layer_types", f"{len(kinds)} layers", f"{layers}")
    keys.layers("attention.recurrent_layers", delta_net.recurrent_layers(kinds) + [False] * n)
    keys.put("full_attention_interval", u32(interval))
    rope = Rope.of(config, options)
    is_said = PARTIAL[0] in rope.parameters or config.first(PARTIAL) is not None
    keys.put("rope.dimension_count", u32(int(head_dim(config) * (rope.partial if is_said else SHARE))))
    return keys


def _with_sections(keys: Keys) -> Metadata:
    key = f"{keys.name}.rope.dimension_sections"
    keys.metadata.setdefault(key, array(ValueType.INT32, list(SECTIONS)))
    return keys.metadata


def _n_next(config: Document) -> int:
    """Number of blocks that predict further tokens: as config.json says, else as many as there are."""
    return next_tokens.n_named(config, "mtp_num_hidden_layers", r"(?:model\.)?mtp\.layers\.(\d{1,6})\..*")


def rules(p: Parameters) -> Rules:
    """Norms are stored as differences from one, but not those inside delta nets."""
    yield from decoder.ends(p, shift=True)
    n = p.n_layers - p.integer("nextn_predict_layers", 0)
    for i in range(p.n_layers):
        source = f"model.layers.{i}" if i < n else f"mtp.layers.{i - n}"
        for name, target in (
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "post_attention_norm"),
        ):
            yield from decoder.norm(p, f"{source}.{name}", f"blk.{i}.{target}", shift=True)
        if i < n and delta_net.is_recurrent(p, i):
            yield from delta_net.rules(p, i, grouped=p.architecture == "qwen3next")
        else:
            yield from decoder.attention(
                p, i, source=f"{source}.self_attn", head_norms=True, shift=True, gated=True
            )
        if p.n_experts:
            yield from decoder.router(p, i, source=f"{source}.mlp.gate")
            yield from decoder.experts(p, i, source=f"{source}.mlp.experts", fused=True)
            yield from shared_expert(p, i, source=f"{source}.mlp")
        else:
            yield from decoder.feed_forward(p, i, source=f"{source}.mlp")
    if n < p.n_layers:
        yield from next_tokens.rules(
            p,
            n,
            source="mtp",
            names=("fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"),
            shift=True,
        )


_text_name = text_names(("model.mtp.", "mtp."))


def rename(name: str, config: Document) -> str | None:
    """Remove the prefixes of larger models; blocks that predict further tokens may be unwanted."""
    name = _text_name(name, config)
    is_next = name.startswith("mtp.")
    return None if is_next and (not config.next_tokens or class_name(config) == _MINICPM) else name


_SKIPPED = (*towers("visual", "vision_tower", "merger"),)

ARCHITECTURES = (
    Architecture(
        name="qwen3next",
        classes=("Qwen3NextForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        rename=rename,
    ),
    Architecture(
        name="qwen35",
        classes=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration", _MINICPM),
        metadata=dense_metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        rename=rename,
        skipped=_SKIPPED,
    ),
    Architecture(
        name="qwen35moe",
        classes=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
        metadata=moe_metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        rename=rename,
        skipped=_SKIPPED,
        required=tuple(key for key in DECODER_KEYS if key != "feed_forward_length"),
    ),
)
