"""Llama 1 to 3.x, Mistral, TinyLlama, SmolLM, Mixtral: LlamaForCausalLM and the like in transformers."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models.architecture import Architecture, Expected, class_name
from gguflow.models.base import ModelTensor
from gguflow.models.decoder import ORIGINALS, DecoderSizes, decoder_metadata, decoder_tensors
from gguflow.models.documents import Document
from gguflow.models.rope import Rope, llama3_factors
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import sentencepiece_json_metadata, sentencepiece_metadata

CODE_LLAMA_TOKENS = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}
"""Code Llama's infilling tokens, which its files do not name; a vocabulary of 32016 identifies it."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The decoder's keys, then Llama's own two. The head size of Mistral and Mixtral only if config.json has
    head_dim: of these classes only LlamaConfig computes it where it is null.
    """
    sizes = _sizes(config)
    computed = not sizes.n_experts and config.values.get("model_type") != "mistral"
    keys = decoder_metadata("llama", config, sizes, head_dim=computed or "head_dim" in config)
    keys["llama.vocab_size"] = u32(sizes.vocab_size)
    keys["llama.rope.dimension_count"] = u32(sizes.head_dim)
    return keys


def _sizes(config: Document) -> DecoderSizes:
    """Only Mixtral has experts."""
    return DecoderSizes.of(
        config, experts="num_local_experts" if class_name(config) == "MixtralForCausalLM" else ""
    )


def tensors(config: Document) -> dict[str, Expected]:
    """Rows of Q and K in the order of llama.cpp's "norm" rope; a bare LlamaModel has no output matrix."""
    return decoder_tensors(
        config, _sizes(config), rope_order=True, headless=class_name(config) == "LlamaModel"
    )


def rope_frequencies(config: Document) -> tuple[ModelTensor, ...]:
    """rope_freqs.weight, float32[head_dim / 2], if the config has Llama 3's scaling."""
    if Rope.of(config).kind != "llama3":
        return ()
    factors = llama3_factors(config, DecoderSizes.of(config).head_dim)
    return (ModelTensor("rope_freqs.weight", factors.shape, values=factors),)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.model (Llama 1, 2, Mistral), or from tokenizer.json: SentencePiece or BPE."""
    keys: Metadata = {}
    if files.settings is not None and "add_prefix_space" in files.settings:
        keys["tokenizer.ggml.add_space_prefix"] = boolean(files.settings.flag("add_prefix_space"))
    keys |= (
        sentencepiece_metadata(files)
        or sentencepiece_json_metadata(files)
        or bpe_metadata(files, ("tokenizer.json", "tokenizer.model"))
    )
    if files.n_tokens == 32016:
        keys |= {f"tokenizer.ggml.{kind}_token_id": u32(token) for kind, token in CODE_LLAMA_TOKENS.items()}
    if (
        files.n_tokens == 49152
    ):  # SmolLM and the small Granites: their tokenizers do not add a space before a text
        keys["tokenizer.ggml.add_bos_token"] = boolean(False)
    return keys


def rename(name: str, config: Document) -> str:
    """Add the prefix that TensorNameMap expects and a model without a head lacks."""
    return f"model.{name}" if class_name(config) == "LlamaModel" else name


ARCHITECTURE = Architecture(
    name="llama",
    classes=(
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "LlamaModel",
    ),
    metadata=metadata,
    tensors=tensors,
    tokenizer=tokenizer,
    rename=rename,
    skipped=(r".*\.rotary_emb\.inv_freq", r".*\.attention\.(masked_)?bias"),
    computed=rope_frequencies,
    computed_names=("rope_freqs.weight",),
    originals=ORIGINALS
    + tuple(
        f"model.layers.{{i}}.block_sparse_moe.{name}"
        for name in ("gate", "experts.{x}.w1", "experts.{x}.w2", "experts.{x}.w3")
    ),
    has_rope_order=True,
)
