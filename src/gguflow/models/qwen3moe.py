"""Qwen3 as a mixture of experts (Qwen3-30B-A3B, Qwen3-235B-A22B): a router and experts in every layer."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models.architecture import Architecture, Expected
from gguflow.models.decoder import ORIGINALS, DecoderSizes, decoder_metadata, decoder_tensors
from gguflow.models.documents import Document
from gguflow.models.qwen2 import tokenizer


def _sizes(config: Document) -> DecoderSizes:
    return DecoderSizes.of(config, experts="num_experts" if "num_experts" in config else "num_local_experts")


def metadata(config: Document, directory: Path) -> Metadata:
    """The decoder's keys, then the width of an expert; the head size only if config.json has it."""
    keys = decoder_metadata("qwen3moe", config, _sizes(config), head_dim="head_dim" in config)
    keys["qwen3moe.expert_feed_forward_length"] = u32(_sizes(config).expert_size)
    return keys


def tensors(config: Document) -> dict[str, Expected]:
    """The decoder's tensors; llama.cpp does not support layers without experts (`mlp_only_layers`)."""
    return decoder_tensors(config, _sizes(config), head_norms=True)


ARCHITECTURE = Architecture(
    name="qwen3moe",
    classes=("Qwen3MoeForCausalLM",),
    metadata=metadata,
    tensors=tensors,
    tokenizer=tokenizer,
    skipped=(r".*\.rotary_emb\.inv_freq",),
    originals=ORIGINALS
    + tuple(
        f"model.layers.{{i}}.mlp.{name}"
        for name in ("gate", *(f"experts.{{x}}.{kind}_proj" for kind in ("gate", "up", "down")))
    ),
)
