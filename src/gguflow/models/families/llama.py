"""Llama 1 to 3.x, Mistral, TinyLlama, SmolLM, Mixtral: LlamaForCausalLM and the like in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.keys import SILU, Keys, base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.rope import LLAMA3, Rope, RopeOptions, llama3_factors
from gguflow.models.rules import Given
from gguflow.models.text_parts import OTHER_INPUTS, text_name
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.mistral import has_only_mistral, mistral_metadata
from gguflow.models.tokenizers.variants import llama_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then Llama's own two."""
    return llama_keys("llama", config).metadata


def llama_keys(
    name: str,
    config: Document,
    *,
    activation: Sequence[str] | None = SILU,
    rope: RopeOptions = LLAMA3,
) -> Keys:
    """The keys of a family that is made like Llama.

    name: `general.architecture`.
    config: config.json.
    activation: as in `base_keys`.
    rope: as in `base_keys`.

    Raises what `base_keys` raises.
    """
    keys = base_keys(name, config, activation=activation, rope=rope)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("rope.dimension_count", u32(head_dim(config)))
    return keys


def rules(p: Parameters) -> Rules:
    """Rows of Q and K in the order of llama.cpp's "norm" rope; a bare LlamaModel has no output matrix."""
    yield from frequencies(p)
    yield from decoder.ends(p, may_lack_head=is_bare(p))
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, rotate=True)
        if p.n_experts:
            source = f"model.layers.{i}.block_sparse_moe"
            yield from decoder.router(p, i, source=f"{source}.gate")
            yield from decoder.experts(p, i, source=f"{source}.experts", names=("w1", "w3", "w2"))
        else:
            yield from decoder.feed_forward(p, i)


def is_bare(p: Parameters) -> bool:
    """Whether a checkpoint may be of a model without an output matrix: one that transformers calls Model."""
    return p.config is None or class_name(p.config).endswith("Model")


def frequencies(p: Parameters, options: RopeOptions = LLAMA3) -> Rules:
    """rope_freqs.weight, float32[head_dim / 2], if config.json has Llama 3's scaling."""
    if p.config is not None:
        rope = Rope.of(p.config, options)
        if rope.kind == "llama3":
            factors = llama3_factors(p.config, head_dim(p.config), rope)
            yield Given("rope_freqs.weight", factors.shape, factors)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.model, tokenizer.json, or Mistral's own files where there is nothing else."""
    return mistral_metadata(files) if has_only_mistral(files) else llama_metadata(files)


def rename(name: str, config: Document) -> str:
    """The names of the text model inside of another."""
    if name.startswith("norm.") and class_name(config).startswith("Sarashina2Vision"):
        return f"visual.{name}"  # of the projector
    return text_name(name, config).replace("text_model.", "").removeprefix("llm.")


ARCHITECTURE = Architecture(
    name="llama",
    classes=(
        *("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "LlamaModel"),
        *("IQuestCoderForCausalLM", "VLlama3ForCausalLM", "LlavaForConditionalGeneration"),
        *("VoxtralForConditionalGeneration", "JanusForConditionalGeneration", "Sarashina2VisionForCausalLM"),
    ),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    computed=(r"rope_freqs\.weight",),
    rename=rename,
    skipped=(*OTHER_INPUTS, r"model\.(aligner|vqmodel|generation_\w+)\..*"),
)
