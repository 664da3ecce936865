"""Baichuan and XVERSE: Llama's blocks; Baichuan fuses queries, keys and values."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, base_keys, head_dim
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear
from gguflow.models.tokenizers.variants import only_sentencepiece_metadata


def keys_of(name: str, config: Document) -> Keys:
    """The base keys, and two more.

    name: `general.architecture`.
    config: config.json.

    Raises what `base_keys` raises.
    """
    keys = base_keys(name, config)
    keys.put("tensor_data_layout", string("Meta AI original pth"))
    keys.put("rope.dimension_count", u32(head_dim(config)))
    return keys


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of Baichuan."""
    return keys_of("baichuan", config).metadata


def metadata_xverse(config: Document, directory: Path) -> Metadata:
    """The keys of XVERSE."""
    return keys_of("xverse", config).metadata


def rules(p: Parameters) -> Rules:
    """Fused matrices are taken apart, and rows of Q and K put in the order of llama.cpp's "norm" rope."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}.self_attn", f"blk.{i}"
        yield from decoder.norms(p, i)
        yield from decoder.fused_qkv(p, i, f"{source}.W_pack", bias=False, rotate=True)
        yield from linear(f"{source}.o_proj", f"{block}.attn_output", p.hidden, p.hidden, bias=False)
        yield from decoder.feed_forward(p, i)


def rules_xverse(p: Parameters) -> Rules:
    """Llama's blocks."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, rotate=True)
        yield from decoder.feed_forward(p, i)


ARCHITECTURES = (
    Architecture(
        name="baichuan",
        classes=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
        metadata=metadata,
        rules=rules,
        tokenizer=only_sentencepiece_metadata,
        required=DECODER_KEYS,
    ),
    Architecture(
        name="xverse",
        classes=("XverseForCausalLM",),
        metadata=metadata_xverse,
        rules=rules_xverse,
        tokenizer=only_sentencepiece_metadata,
        required=DECODER_KEYS,
    ),
)
