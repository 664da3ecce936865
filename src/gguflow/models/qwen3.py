"""Qwen3: Qwen2 without biases, with Q and K normalized per head, and with a separate head size."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.architecture import Architecture, Expected, class_name
from gguflow.models.card import heading_text
from gguflow.models.decoder import ORIGINALS, DecoderSizes, decoder_metadata, decoder_tensors
from gguflow.models.documents import Document
from gguflow.models.pooling import pooling_metadata
from gguflow.models.qwen2 import tokenizer

HEAD_DIM = 128
"""The default of Qwen3Config."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The decoder's keys. Raises UnsupportedError (M-008) for a reranker, and as `DecoderSizes.of`."""
    if _is_reranker(config, directory):
        message = "Qwen3 rerankers are not supported: llama.cpp keeps only two rows of their output matrix"
        raise UnsupportedError(directory, Finding("M-008", message))
    keys = decoder_metadata("qwen3", config, DecoderSizes.of(config, HEAD_DIM))
    return keys | pooling_metadata("qwen3", directory)


def _is_reranker(config: Document, directory: Path) -> bool:
    """Whether this is a reranker, told as in llama.cpp's converter by its name or its card's heading."""
    names = (directory.resolve().name, config.text("_name_or_path", ""))
    heading = heading_text(directory).lower()
    return any("qwen3-reranker" in name.lower() for name in names) or "# qwen3-reranker" in heading


def tensors(config: Document) -> dict[str, Expected]:
    """The decoder's tensors; a Qwen3Model without a head (an embedding model) has no output matrix."""
    return decoder_tensors(
        config,
        DecoderSizes.of(config, HEAD_DIM),
        head_norms=True,
        headless=class_name(config) == "Qwen3Model",
    )


ARCHITECTURE = Architecture(
    name="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    metadata=metadata,
    tensors=tensors,
    tokenizer=tokenizer,
    skipped=(r".*\.rotary_emb\.inv_freq",),
    originals=ORIGINALS,
)
