"""The text models of Qwen3-VL (dense and mixture of experts), Qwen3-Omni and Qwen3-ASR."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families import qwen3
from gguflow.models.keys import Keys, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rerankers import reranker
from gguflow.models.rope import RopeOptions
from gguflow.models.text_parts import text_names, towers
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.variants import qwen3_omni_metadata, sentencepiece_or_bpe_metadata

ROPE = RopeOptions(sections=True)
OMNI, ASR = "Qwen3OmniMoeForConditionalGeneration", "Qwen3ASRForConditionalGeneration"
DEEPSTACK_LAYERS = 3
"""Layers of the vision tower that feed layers of the text model, where config.json does not list them."""

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of models that transcribe sound: their own one is for transformers' processor."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and how many layers of the vision tower feed the text model."""
    return deepstack(base_keys("qwen3vl", config, rope=ROPE)).metadata


def moe_metadata(config: Document, directory: Path) -> Metadata:
    """The same, and the width of an expert."""
    keys = base_keys("qwen3vlmoe", config, rope=ROPE)
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    return deepstack(keys).metadata


def deepstack(keys: Keys) -> Keys:
    """Put the number of layers of the vision tower that feed layers of the text model: none of a model that
    hears.

    keys: where it is put.
    """
    vision = keys.config.section("vision_config")
    is_listed = "deepstack_visual_indexes" in vision
    n = len(vision.items("deepstack_visual_indexes")) if is_listed else DEEPSTACK_LAYERS
    keys.put("n_deepstack_layers", u32(0 if class_name(keys.config) in (OMNI, ASR) else n))
    return keys


def moe_rules(p: Parameters) -> Rules:
    """A decoder of experts, of which Qwen3-VL has the matrices stacked with exchanged axes."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, head_norms=True)
        yield from decoder.router(p, i)
        each = list(decoder.experts(p, i, fused=True, transposed=True))
        yield from each[3:]  # an export has the stacks of Qwen3-VL
        yield from each[:3]


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Qwen2's; a model that hears has its own first and last token, one that transcribes another template."""
    name = class_name(files.config)
    if name not in (OMNI, ASR):
        return sentencepiece_or_bpe_metadata(files)
    keys = qwen3_omni_metadata(files)
    return keys | {"tokenizer.chat_template": string(CHATML)} if name == ASR else keys


def choose(config: Document, directory: Path) -> Architecture:
    """A decoder, or a reranker."""
    return reranker(ARCHITECTURES[0], config, directory)


_SKIPPED = towers("visual", "audio_tower", "multi_modal_projector", "talker", "code2wav")

ARCHITECTURES = (
    Architecture(
        name="qwen3vl",
        classes=("Qwen3VLForConditionalGeneration", ASR),
        metadata=metadata,
        rules=qwen3.rules,
        tokenizer=tokenizer,
        rename=text_names(),
        skipped=_SKIPPED,
        computed=(r"cls\.output\.weight",),
        choose=choose,
    ),
    Architecture(
        name="qwen3vlmoe",
        classes=("Qwen3VLMoeForConditionalGeneration", OMNI),
        metadata=moe_metadata,
        rules=moe_rules,
        tokenizer=tokenizer,
        rename=text_names(),
        skipped=_SKIPPED,
    ),
)
