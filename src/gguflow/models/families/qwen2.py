"""Qwen2 and Qwen2.5: Llama's blocks with biases on Q, K and V; rows are not reordered ("neox" rope).

So are KORMo, whose norms have other names, and the text models inside Qwen2-Audio, Audio Flamingo 3 and
dots.ocr.
"""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata
from gguflow.models.text_parts import text_names, towers
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata

_KORMO = "KORMoForCausalLM"


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and how an embedding model pools."""
    return base_keys("qwen2", config).metadata | pooling_metadata("qwen2", directory)


def rules(p: Parameters) -> Rules:
    """A decoder; a bare Qwen2Model has no output matrix, and KORMo no biases."""
    name = None if p.config is None else class_name(p.config)
    yield from decoder.ends(p, may_lack_head=name in (None, "Qwen2Model"))
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, qkv_bias=None if name in (None, _KORMO) else True)
        yield from decoder.feed_forward(p, i)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.model, or from tokenizer.json."""
    return sentencepiece_metadata(files) or bpe_metadata(files, ("tokenizer.json", "tokenizer.model"))


_text_name = text_names()


def rename(name: str, config: Document) -> str:
    """Remove the prefixes of larger models, and use Qwen2's names of norms."""
    name = _text_name(name, config)
    name = name.replace(".pre_attention_layernorm.", ".input_layernorm.")
    return name.replace(".pre_mlp_layernorm.", ".post_attention_layernorm.")


ARCHITECTURE = Architecture(
    name="qwen2",
    classes=(
        "Qwen2ForCausalLM",
        "Qwen2Model",
        _KORMO,
        "Qwen2AudioForConditionalGeneration",
        "AudioFlamingo3ForConditionalGeneration",
        "DotsOCRForCausalLM",
    ),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=rename,
    skipped=towers("audio_tower", "vision_tower", "multi_modal_projector"),
)
