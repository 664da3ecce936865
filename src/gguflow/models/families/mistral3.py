"""Mistral 3 and Ministral 3: Llama with a scale of attention for long contexts."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.families.llama import llama_keys, rename, rules, tokenizer
from gguflow.models.rope import LLAMA3, Rope, RopeOptions
from gguflow.models.text_parts import OTHER_INPUTS

YARN = RopeOptions(
    kinds=LLAMA3.kinds,
    read=frozenset(("mscale", "mscale_all_dim", "llama_4_scaling_beta", "max_position_embeddings")),
)


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys; Ministral 3 extends its context.

    Raises UnsupportedError (M-005: another scaling than "yarn"; M-008: Mistral 4, which is made like
    DeepSeek-V2), and what `base_keys` raises.
    """
    kind = config.text("model_type", "")
    if kind == "mistral4":
        message = "Mistral 4 is not supported under this class"
        raise UnsupportedError(config.file, Finding("M-008", message, config.at("model_type"), found=kind))
    if kind != "ministral3":
        return llama_keys("mistral3", config).metadata
    keys = llama_keys("mistral3", config, rope=YARN)
    rope = Rope.of(config, YARN)
    if rope.kind != "yarn":
        message = "Ministral 3 extends its context by YaRN"
        where = rope.parameters.at("rope_type")
        finding = Finding("M-005", message, where, found=rope.kind, expected="yarn")
        raise UnsupportedError(config.file, finding)
    keys.put("rope.scaling.yarn_log_multiplier", f32(rope.number("mscale_all_dim")))
    keys.put("attention.temperature_scale", f32(rope.number("llama_4_scaling_beta")))
    return keys.metadata


ARCHITECTURE = Architecture(
    name="mistral3",
    classes=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=rename,
    skipped=OTHER_INPUTS,
    computed=(r"rope_freqs\.weight",),
)
