"""Mamba, Mamba-2 and Falcon-Mamba: state spaces alone, without attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import LAYERS, Keys
from gguflow.models.parameters import MAX_LAYERS, Parameters
from gguflow.models.rules import same
from gguflow.models.state_space import CONTEXT, mamba1, mamba2, n_rows, with_padding
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata

WIDTH = ("hidden_size", "d_model", "dim")


def first_keys(name: str, config: Document) -> Keys:
    """The keys before those of the state space.

    name: `general.architecture`.
    config: config.json, of which only what it says counts: transformers' defaults are those of one model.

    Raises InvalidError (M-002, M-003).
    """
    keys = Keys(name, replace(config, defaults={}))
    keys.put("context_length", u32(CONTEXT))
    keys.put("embedding_length", u32(width(config)))
    keys.put("feed_forward_length", u32(0))
    keys.put("attention.head_count", u32(0))
    layers = config.first(LAYERS) or LAYERS[1]
    keys.put("block_count", u32(config.integer(layers, maximum=MAX_LAYERS)))
    return keys


def width(config: Document) -> int:
    """Of the residual stream. Raises InvalidError (M-002, M-003)."""
    return config.integer(config.first(WIDTH) or WIDTH[0])


def epsilon(keys: Keys) -> None:
    """Put the constant of the norms."""
    keys.number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "rms_norm_eps", default=1e-5)


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of Mamba; llama.cpp has states that are twice as wide as the model, no others."""
    keys = first_keys("mamba", config)
    hidden = width(config)
    keys.integer("ssm.conv_kernel", "conv_kernel", "d_conv", default=4)
    inner = keys.integer("ssm.inner_size", "intermediate_size", "d_inner", default=2 * hidden)
    if inner != 2 * hidden:
        raise config.wrong("intermediate_size", inner, f"twice the width of the model ({2 * hidden})")
    keys.integer("ssm.state_size", "state_size", "d_state", default=16)
    keys.integer("ssm.time_step_rank", "time_step_rank", "dt_rank", default=-(-hidden // 16))
    epsilon(keys)
    keys.put("ssm.dt_b_c_rms", boolean(config.text("model_type", "") == "falcon_mamba"))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Blocks of Mamba, each after a norm."""
    yield from ends(p)
    for i in range(p.n_layers):
        yield from decoder.norm(p, f"backbone.layers.{i}.norm", f"blk.{i}.attn_norm")
        yield from mamba1(p, i, f"backbone.layers.{i}.mixer")


def ends(p: Parameters) -> Rules:
    """Embeddings, the last norm, and the output matrix of a model that does not share the embeddings."""
    rows = n_rows(p)
    yield same("backbone.embeddings.weight", "token_embd.weight", (rows, p.hidden))
    yield from decoder.norm(p, "backbone.norm_f", "output_norm")
    is_needed = p.config is not None and not is_tied(p.config)
    yield same("lm_head.weight", "output.weight", (rows, p.hidden), required=is_needed)


def is_tied(config: Document) -> bool:
    """Whether the output matrix is that of the embeddings."""
    return config.flag("tie_word_embeddings", False) or config.flag("tie_embeddings", False)


def rename(name: str, config: Document) -> str:
    """The names of transformers; an output matrix that is that of the embeddings is set apart."""
    for prefix in ("model.backbone.", "model.lm_head."):
        if name.startswith(prefix):
            name = name.removeprefix("model.")
    if name == "lm_head.weight" and is_tied(config):
        return "tied.weight"
    return name.replace("backbone.embedding.", "backbone.embeddings.")


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.json, or from tokenizer.model."""
    files = with_padding(files, 8)
    found = sentencepiece_metadata(files) if files.tokenizer is None else None
    return found or bpe_metadata(files, ("tokenizer.json", "tokenizer.model"))


def metadata_2(config: Document, directory: Path) -> Metadata:
    """The keys of Mamba-2."""
    keys = first_keys("mamba2", config)
    said, hidden = keys.config, width(config)
    expand = said.integer(said.first(("mamba_expand", "expand")) or "expand", 2)
    keys.integer("ssm.conv_kernel", "conv_kernel", "d_conv", default=4)
    names = ("mamba_d_ssm", "intermediate_size", "d_inner")
    inner = keys.integer("ssm.inner_size", *names, default=expand * hidden) or 0
    head = said.integer(said.first(("mamba_d_head", "head_dim")) or "head_dim", 64)
    if inner != expand * hidden or inner % head:
        raise config.wrong("expand", expand, f"{inner} / {hidden}, and whole heads of {head}")
    keys.integer("ssm.state_size", "state_size", "d_state", default=128)
    keys.put("ssm.time_step_rank", u32(inner // head))
    keys.integer("ssm.group_count", "n_groups", default=1, minimum=1)
    epsilon(keys)
    return keys.metadata


def rules_2(p: Parameters) -> Rules:
    """Blocks of Mamba-2, each after a norm."""
    yield from ends(p)
    for i in range(p.n_layers):
        yield from decoder.norm(p, f"backbone.layers.{i}.norm", f"blk.{i}.attn_norm")
        yield from mamba2(p, i, f"backbone.layers.{i}.mixer")


def tokenizer_2(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.model, or from tokenizer.json."""
    files = with_padding(files, 16)
    return sentencepiece_metadata(files) or bpe_metadata(files, ("tokenizer.json", "tokenizer.model"))


REQUIRED = (
    *("block_count", "context_length", "embedding_length", "attention.layer_norm_rms_epsilon"),
    *("ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank"),
)

ARCHITECTURES = (
    Architecture(
        name="mamba",
        classes=("MambaForCausalLM", "MambaLMHeadModel", "FalconMambaForCausalLM"),
        metadata=metadata,
        rules=rules,
        tokenizer=tokenizer,
        rename=rename,
        skipped=(r"tied\.weight",),
        required=REQUIRED,
    ),
    Architecture(
        name="mamba2",
        classes=("Mamba2ForCausalLM",),
        metadata=metadata_2,
        rules=rules_2,
        tokenizer=tokenizer_2,
        rename=rename,
        skipped=(r"tied\.weight",),
        required=(*REQUIRED, "ssm.group_count"),
    ),
)
