"""MiniMax M2 and M3: experts in all blocks, or after dense ones; M3 attends to blocks that it chooses."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, f32, u32
from gguflow.models import decoder, mixture
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.olmoe import whole_norms
from gguflow.models.keys import Keys, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, shifted
from gguflow.models.text_parts import OTHER_INPUTS, text_name
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(partial=True, read=frozenset(("rotary_dim",)))
INDEXER = (
    ("head_count", "sparse_num_index_heads"),
    ("key_length", "sparse_index_dim"),
    ("top_k", "sparse_topk_blocks"),
    ("block_size", "sparse_block_size"),
    ("local_blocks", "sparse_local_block"),
)
"""Keys of the indexer, and their names in config.json's sparse_attention_config."""


def metadata(config: Document, directory: Path) -> Metadata:
    """M2: the base keys, the width of an expert, and how much of a head rotates."""
    return _keys("minimax-m2", config).metadata


def _keys(name: str, config: Document) -> Keys:
    keys = base_keys(name, config, rope=ROPE)
    keys.put("expert_feed_forward_length", u32(config.integer("intermediate_size")))
    keys.put("rope.dimension_count", u32(config.integer("rotary_dim")))
    return keys


def third_metadata(config: Document, directory: Path) -> Metadata:
    """M3: the same, then those for shared experts and for the indexer."""
    plain = config.with_values(hidden_act="silu") if config.value("hidden_act") == "swigluoai" else config
    keys = _keys("minimax-m3", plain)
    keys.put("expert_shared_count", u32(config.integer("n_shared_experts", minimum=0)))
    keys.put("expert_weights_scale", f32(config.number("routed_scaling_factor")))
    keys.put("expert_weights_norm", boolean(True))
    sparse = config.section("sparse_attention_config")
    for key, name in INDEXER:
        keys.put(f"attention.indexer.{key}", u32(sparse.integer(name, minimum=0)))
    kinds = config.items("moe_layer_freq")
    if not kinds:
        raise config.missing("moe_layer_freq")
    n_dense = next((i for i, kind in enumerate(kinds) if kind != 0), len(kinds))
    keys.put("leading_dense_block_count", u32(n_dense))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """M2: a decoder of experts; queries and keys are normalized as a whole."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        yield from whole_norms(p, i)
        yield from _experts(p, i, shared="")


def _experts(p: Parameters, i: int, shared: str) -> Rules:
    """Experts under Mixtral's names, and shared ones under DeepSeek's."""
    source = f"model.layers.{i}.block_sparse_moe"
    bias, names = "e_score_correction_bias", ("w1", "w3", "w2")
    yield from mixture.rules(p, i, source=source, bias=bias, names=names, shared="", fused=False)
    if shared:
        width = p.integer("expert_shared_count", 0) * p.expert_wide
        yield from decoder.feed_forward(
            p, i, source=f"{source}.{shared}", width=width, suffix="_shexp", bias=False
        )


def third_rules(p: Parameters) -> Rules:
    """M3: norms are stored as differences from one; blocks of experts have an indexer."""
    heads, width = p.integer("attention.indexer.head_count"), p.integer("attention.indexer.key_length")
    yield from decoder.ends(p, shift=True)
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}.self_attn.index", f"blk.{i}.indexer"
        yield from decoder.norms(p, i, shift=True)
        yield from decoder.attention(p, i, head_norms=True, qkv_bias=False, output_bias=False, shift=True)
        if mixture.is_dense(p, i):
            yield from decoder.feed_forward(p, i, bias=False)
            continue
        yield from _experts(p, i, shared="shared_experts" if p.integer("expert_shared_count", 0) else "")
        for x, n in (("q", heads), ("k", 1)):
            projection = (f"{source}_{x}_proj", f"{block}.{x}_proj", n * width, p.hidden)
            yield from linear(*projection, bias=False, required=False)
            names = (f"{source}_{x}_norm.weight", f"{block}.{x}_norm.weight", (width,))
            yield shifted(*names, required=False)


ARCHITECTURES = (
    Architecture(
        name="minimax-m2",
        classes=("MiniMaxM2ForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
    ),
    Architecture(
        name="minimax-m3",
        classes=("MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration"),
        metadata=third_metadata,
        rules=third_rules,
        tokenizer=bpe_metadata,
        rename=text_name,
        skipped=(*OTHER_INPUTS, r"(?:model\.)?patch_merge_mlp\..*"),
    ),
)
