"""Qwen3: Qwen2 without biases, with Q and K normalized per head, and with a separate head size.

So is the text model of Step3-VL; and there are rerankers.
"""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families.qwen2 import tokenizer
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata
from gguflow.models.rerankers import head_of_file, reranker
from gguflow.models.text_parts import text_names, towers


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and how an embedding model pools."""
    return base_keys("qwen3", config).metadata | pooling_metadata("qwen3", directory)


def rules(p: Parameters) -> Rules:
    """A decoder with norms of heads; a Qwen3Model (an embedding model) has no output matrix."""
    yield from decoder.ends(p, may_lack_head=p.config is None or class_name(p.config) == "Qwen3Model")
    yield from head_of_file(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.feed_forward(p, i)


def choose(config: Document, directory: Path) -> Architecture:
    """A decoder, or a reranker."""
    return reranker(ARCHITECTURE, config, directory)


ARCHITECTURE = Architecture(
    name="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model", "StepVLForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=text_names(),
    skipped=(*towers("vision_model", "vit_large_projector"),),
    computed=(r"cls\.output\.weight",),
    choose=choose,
)
