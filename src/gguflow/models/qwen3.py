"""Qwen3: Qwen2 without the biases, with Q and K normalized per head, and with heads whose width is a parameter of its own."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models.architecture import Architecture, Expected
from gguflow.models.decoder import DecoderSizes, decoder_metadata, decoder_tensors
from gguflow.models.documents import Document
from gguflow.models.pooling import pooling_metadata
from gguflow.models.qwen2 import tokenizer

HEAD_DIM = 128
"""Qwen3Config's own default."""


def metadata(config: Document, directory: Path) -> Metadata:
    keys = decoder_metadata("qwen3", config, DecoderSizes.of(config, HEAD_DIM))
    return keys | pooling_metadata("qwen3", directory)


def tensors(config: Document) -> dict[str, Expected]:
    return decoder_tensors(config, DecoderSizes.of(config, HEAD_DIM), head_norms=True)


ARCHITECTURE = Architecture(
    name="qwen3",
    classes=("Qwen3ForCausalLM",),
    metadata=metadata,
    tensors=tensors,
    tokenizer=tokenizer,
    skipped=(r".*\.rotary_emb\.inv_freq",),
)
