"""openPangu Embedded: grouped-query attention with biases; rows are not reordered ("neox" rope)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.parameters import Parameters
from gguflow.container.metadata import boolean, u32
from gguflow.models.keys import base_keys, head_dim
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and the width of a head."""
    keys = base_keys("pangu-embedded", config)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        keys.put(key, u32(head_dim(config)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder; attention may have biases."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i)
        yield from decoder.feed_forward(p, i)


def rename(name: str, config: Document) -> str:
    """An output matrix that is that of the embeddings is set apart."""
    is_double = name == "lm_head.weight" and config.flag("tie_word_embeddings", False)
    return "tied.weight" if is_double else name


def tokenizer(files: TokenizerFiles) -> Metadata:
    """SentencePiece; tokenizer_config.json says whether a space is put before a text."""
    if (keys := sentencepiece_metadata(files)) is None:
        raise no_tokenizer(files.directory, "tokenizer.model")
    if files.settings is not None and "add_prefix_space" in files.settings:
        keys |= {"tokenizer.ggml.add_space_prefix": boolean(files.settings.flag("add_prefix_space"))}
    return keys


ARCHITECTURE = Architecture(
    name="pangu-embedded",
    classes=("PanguEmbeddedForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=rename,
    skipped=(r"tied\.weight",),
    required=DECODER_KEYS,
)
