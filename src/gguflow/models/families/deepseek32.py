"""DeepSeek-V3.2 and GLM-5: latent attention to the tokens that an indexer chooses."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families import deepseek2
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.variants import glm_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """DeepSeek-V3.2: the keys of latent attention, then those of the indexer."""
    return _keys("deepseek32", config).metadata


def glm_metadata_keys(config: Document, directory: Path) -> Metadata:
    """GLM-5: the same, and the blocks that have an indexer of their own."""
    keys = _keys("glm-dsa", config)
    kinds = [kind == "full" for kind in config.items("indexer_types")]
    if kinds:
        keys.put("attention.indexer.types", array(ValueType.BOOL, kinds))
    return keys.metadata


def _keys(name: str, config: Document) -> Keys:
    n = next_tokens.n_next(config)
    keys = deepseek2.latent_keys(name, config, n)
    next_tokens.put_number(keys, n)
    for key, source in (
        ("head_count", "index_n_heads"),
        ("key_length", "index_head_dim"),
        ("top_k", "index_topk"),
    ):
        keys.put(f"attention.indexer.{key}", u32(config.integer(source)))
    return keys


def rules(p: Parameters) -> Rules:
    """DeepSeek-V3's blocks, each with an indexer, unless it shares that of the block before."""
    yield from decoder.ends(p)
    rank = p.integer("attention.q_lora_rank", minimum=1)
    heads, width = p.integer("attention.indexer.head_count"), p.integer("attention.indexer.key_length")
    own = p.flags("attention.indexer.types")
    for i in range(p.n_layers):
        yield from deepseek2.block(p, i)
        source, target = f"model.layers.{i}.self_attn.indexer", f"blk.{i}.indexer"
        needed = i >= len(own) or own[i]
        for kind in ("weight", "bias"):
            yield same(f"{source}.k_norm.{kind}", f"{target}.k_norm.{kind}", (width,), required=needed)
        for name, new_name, n_out, n_in in (
            ("weights_proj", "proj", heads, p.hidden),
            ("wk", "attn_k", width, p.hidden),
            ("wq_b", "attn_q_b", heads * width, rank),
        ):
            yield from linear(
                f"{source}.{name}", f"{target}.{new_name}", n_out, n_in, bias=False, required=needed
            )


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.json. Raises UnsupportedError (M-024) where no token begins a text."""
    if files.settings is None or not files.settings.flag("add_bos_token", False):
        file = files.directory / "tokenizer_config.json"
        message = "DeepSeek-V3.2 begins every text with a token, which this file does not say"
        finding = Finding("M-024", message, "$.add_bos_token", found=None, expected=True)
        raise UnsupportedError(file, finding)
    return bpe_metadata(files)


ARCHITECTURES = (
    Architecture(
        name="deepseek32",
        classes=("DeepseekV32ForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=tokenizer,
        rename=deepseek2.rename_with_next,
    ),
    Architecture(
        name="glm-dsa",
        classes=("GlmMoeDsaForCausalLM",),
        metadata=glm_metadata_keys,
        rules=rules,
        tokenizer=glm_metadata,
        rename=deepseek2.rename_with_next,
    ),
)
