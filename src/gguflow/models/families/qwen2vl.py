"""The text models of Qwen2-VL, Qwen2.5-VL and Qwen2.5-Omni: Qwen2 with positions of three dimensions."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families.qwen2 import tokenizer
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.text_parts import text_names, towers


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys."""
    return base_keys("qwen2vl", config, rope=RopeOptions(sections=True)).metadata


def rules(p: Parameters) -> Rules:
    """A decoder; a bare Qwen2VLModel has no output matrix."""
    yield from decoder.ends(p, may_lack_head=p.config is None or class_name(p.config) == "Qwen2VLModel")
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, qkv_bias=True)
        yield from decoder.feed_forward(p, i)


ARCHITECTURE = Architecture(
    name="qwen2vl",
    classes=(
        "Qwen2VLModel",
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5OmniModel",
    ),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=text_names(),
    skipped=towers("visual", "audio_tower", "talker", "token2wav"),
)
