"""Nomic's embeddings: an encoder with rotary embeddings, dense with a gate (v1, v1.5) or of experts (v2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.bert import (
    ENCODER_KEYS,
    HEADS_OF_TRAINING,
    embeddings,
    encoder_keys,
    with_norm_names,
)
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, reshaped, transposed
from gguflow.models.tokenizers.unigram import nomic_metadata

ROTARY = RopeOptions(
    kinds=("default",),
    read=frozenset(("rotary_emb_fraction", "rotary_emb_interleaved", "rotary_emb_scale_base")),
)
TRAINED = {8192: 2048, 2048: 512}
"""Positions with which these models were trained, by those in config.json."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder. Raises UnsupportedError (M-009) for what llama.cpp does not compute."""
    is_moe = _is_moe(config)
    for key, expected in (
        *(("causal", False), ("prenorm", False), ("qkv_proj_bias", is_moe), ("mlp_fc1_bias", is_moe)),
        *(("mlp_fc2_bias", is_moe), ("rotary_emb_fraction", 1), ("rotary_emb_interleaved", False)),
        *(("rotary_emb_scale_base", None), ("max_trained_positions", 2048)),
    ):
        if (found := config.values.get(key, expected)) != expected:
            _refuse(config, key, found, expected)
    n_positions = config.integer("n_positions")
    if n_positions not in TRAINED:
        _refuse(config, "n_positions", n_positions, "8192 or 2048")
    values = {"max_position_embeddings": TRAINED[n_positions], **config.values}
    values.pop("hidden_act", None)  # by this name it is that of the gate alone
    config = replace(config, values=values, defaults={})  # of another class, whose keys have other names
    name, activation = ("nomic-bert-moe", "gelu") if is_moe else ("nomic-bert", "swiglu")
    keys = encoder_keys(name, config, directory, activation=(activation,), rope=ROTARY)
    if is_moe:
        keys.integer("moe_every_n_layers", "moe_every_n_layers", minimum=2)
        keys.integer("expert_used_count", "moe_top_k", minimum=1)
    return keys.metadata


def _is_moe(config: Document) -> bool:
    return config.integer("moe_every_n_layers", 0, minimum=0) > 0


def _refuse(config: Document, key: str, found: object, expected: object) -> None:
    message = "llama.cpp computes something else in this family"
    finding = Finding("M-009", message, config.at(key), found=found, expected=expected)
    raise UnsupportedError(config.file, finding)


def rules(p: Parameters) -> Rules:
    """An encoder with fused attention; of experts, every second layer or so has them."""
    hidden, wide = p.hidden, p.wide()
    every = p.integer("moe_every_n_layers", 0)
    is_moe = p.architecture == "nomic-bert-moe"
    yield from embeddings(p, norm="emb_ln")
    for i in range(p.n_layers):
        layer, block = f"encoder.layers.{i}", f"blk.{i}"
        yield from linear(f"{layer}.attn.Wqkv", f"{block}.attn_qkv", 3 * hidden, hidden, bias=is_moe)
        yield from linear(f"{layer}.attn.out_proj", f"{block}.attn_output", hidden, hidden, bias=is_moe)
        yield from decoder.norm(p, f"{layer}.norm1", f"{block}.attn_output_norm", bias=True)
        yield from decoder.norm(p, f"{layer}.norm2", f"{block}.layer_output_norm", bias=True)
        if every and i % every == 1:
            yield from decoder.router(p, i, source=f"{layer}.mlp.router.layer")
            n, experts = p.n_experts, f"{layer}.mlp.experts.mlp"
            shape = (n * wide, hidden)
            yield reshaped(f"{experts}.w1", f"{block}.ffn_up_exps.weight", shape, (n, wide, hidden))
            down = f"{block}.ffn_down_exps.weight"
            yield transposed(f"{experts}.w2", down, (n, hidden, wide), stored=shape)
        elif is_moe:
            yield from linear(f"{layer}.mlp.fc1", f"{block}.ffn_up", wide, hidden, bias=True)
            yield from linear(f"{layer}.mlp.fc2", f"{block}.ffn_down", hidden, wide, bias=True)
        else:
            yield from linear(f"{layer}.mlp.fc11", f"{block}.ffn_up", wide, hidden, bias=False)
            yield from linear(f"{layer}.mlp.fc12", f"{block}.ffn_gate", wide, hidden, bias=False)
            yield from linear(f"{layer}.mlp.fc2", f"{block}.ffn_down", hidden, wide, bias=False)


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, and use the current names of norms."""
    return with_norm_names(name.removeprefix("bert."))


def _choose(config: Document, directory: Path) -> Architecture:
    return ARCHITECTURES[1] if _is_moe(config) else ARCHITECTURES[0]


ARCHITECTURES = (
    Architecture(
        name="nomic-bert",
        classes=("NomicBertModel",),
        metadata=metadata,
        rules=rules,
        required=ENCODER_KEYS,
        tokenizer=nomic_metadata,
        rename=rename,
        skipped=HEADS_OF_TRAINING,
        choose=_choose,
    ),
    Architecture(
        name="nomic-bert-moe",
        classes=(),
        metadata=metadata,
        rules=rules,
        required=ENCODER_KEYS,
        tokenizer=nomic_metadata,
        rename=rename,
        skipped=(*HEADS_OF_TRAINING, r".*\.mlp\.experts\.bias"),
    ),
)
