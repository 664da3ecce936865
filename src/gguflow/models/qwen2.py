"""Qwen2 and Qwen2.5: Llama's blocks with biases on Q, K and V; rows are not reordered ("neox" rope)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models.architecture import Architecture, Expected, class_name
from gguflow.models.decoder import ORIGINALS, DecoderSizes, decoder_metadata, decoder_tensors
from gguflow.models.documents import Document
from gguflow.models.pooling import pooling_metadata
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The decoder's keys; the head size only if config.json has it: Qwen2Config has no default."""
    keys = decoder_metadata("qwen2", config, DecoderSizes.of(config), head_dim="head_dim" in config)
    return keys | pooling_metadata("qwen2", directory)


def tensors(config: Document) -> dict[str, Expected]:
    return decoder_tensors(
        config, DecoderSizes.of(config), qkv_bias=True, headless=class_name(config) == "Qwen2Model"
    )


def tokenizer(files: TokenizerFiles) -> Metadata:
    return sentencepiece_metadata(files) or bpe_metadata(files, ("tokenizer.json", "tokenizer.model"))


def rename(name: str, config: Document) -> str:
    """Add the prefix that TensorNameMap expects and a model without a head lacks."""
    return f"model.{name}" if class_name(config) == "Qwen2Model" else name


ARCHITECTURE = Architecture(
    name="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    metadata=metadata,
    tensors=tensors,
    tokenizer=tokenizer,
    rename=rename,
    skipped=(r".*\.rotary_emb\.inv_freq",),
    originals=ORIGINALS,
)
