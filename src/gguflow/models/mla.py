"""Multi-head latent attention (MLA) of DeepSeek-V2 and its heirs, as llama.cpp computes it.

Keys and values of all heads are projections of one latent vector (kv_a) by `kv_b`. llama.cpp absorbs them
into queries and outputs: it sees one key head as wide as the latent vector and the rotating part, and has
`kv_b` as two stacks of matrices: of keys, transposed, and of values.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguflow.container.metadata import u32
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Part, Rule, Views, linear, same, split_inside, unchanged
from gguflow.models.views import Reshape, Transpose


def put_ranks(keys: Keys) -> None:
    """The keys for the widths of latent vectors and heads.

    keys: where they are put.

    Raises InvalidError (M-002, M-003).
    """
    config = keys.config
    keys.integer("attention.q_lora_rank", "q_lora_rank", minimum=1)
    rank = config.integer("kv_lora_rank")
    rotated = config.integer("qk_rope_head_dim", minimum=0)
    keys.put("attention.kv_lora_rank", u32(rank))
    keys.put("attention.key_length", u32(rank + rotated))
    keys.put("attention.value_length", u32(rank))
    keys.put("attention.key_length_mla", u32(config.integer("qk_nope_head_dim") + rotated))
    keys.put("attention.value_length_mla", u32(config.integer("v_head_dim")))


def rules(p: Parameters, i: int, *, source: str = "model.layers.{i}.self_attn") -> Iterator[Rule]:
    """The matrices and norms of latent attention.

    p: hyper-parameters.
    i: number of the block.
    source: what names of attention begin with in the checkpoint; {i} is the block.
    """
    if not p.has("attention.key_length_mla"):  # files of llama.cpp before April 2025
        yield from unabsorbed_rules(p, i, source=source)
        return
    source, block, heads = source.replace("{i}", str(i)), f"blk.{i}", p.heads(i)
    rank = p.integer("attention.kv_lora_rank", minimum=1)
    rotated = max(p.integer("attention.key_length") - rank, 0)
    key, value = p.integer("attention.key_length_mla"), p.integer("attention.value_length_mla")
    if p.has("attention.q_lora_rank"):
        yield from _low_rank_queries(p, source, block, heads * key)
    else:
        yield from linear(f"{source}.q_proj", f"{block}.attn_q", heads * key, p.hidden, bias=False)
    kv_a = f"{source}.kv_a_proj_with_mqa"
    yield from linear(kv_a, f"{block}.attn_kv_a_mqa", rank + rotated, p.hidden, bias=False)
    yield same(f"{source}.kv_a_layernorm.weight", f"{block}.attn_kv_a_norm.weight", (rank,))
    yield absorbed(f"{source}.kv_b_proj.weight", block, heads, max(key - rotated, 0), value, rank)
    yield from linear(f"{source}.o_proj", f"{block}.attn_output", p.hidden, heads * value, bias=False)


def unabsorbed_rules(p: Parameters, i: int, *, source: str = "model.layers.{i}.self_attn") -> Iterator[Rule]:
    """The same for architectures in which llama.cpp keeps `kv_b` as it is, and heads as they are trained.

    p: hyper-parameters.
    i: number of the block.
    source: what names of attention begin with in the checkpoint; {i} is the block.
    """
    source, block, heads = source.replace("{i}", str(i)), f"blk.{i}", p.heads(i)
    rank, rotated = p.integer("attention.kv_lora_rank", minimum=1), p.integer("rope.dimension_count")
    key, value = p.head_dim, p.value_dim
    if p.has("attention.q_lora_rank"):
        yield from _low_rank_queries(p, source, block, heads * key)
    else:
        yield from linear(f"{source}.q_proj", f"{block}.attn_q", heads * key, p.hidden, bias=False)
    kv_a = f"{source}.kv_a_proj_with_mqa"
    yield from linear(kv_a, f"{block}.attn_kv_a_mqa", rank + rotated, p.hidden, bias=False)
    yield same(f"{source}.kv_a_layernorm.weight", f"{block}.attn_kv_a_norm.weight", (rank,))
    rows = heads * max(key - rotated + value, 0)
    yield from linear(f"{source}.kv_b_proj", f"{block}.attn_kv_b", rows, rank, bias=False)
    yield from linear(f"{source}.o_proj", f"{block}.attn_output", p.hidden, heads * value, bias=False)


def _low_rank_queries(p: Parameters, source: str, block: str, n: int) -> Iterator[Rule]:
    """Queries of a latent vector of their own."""
    rank = p.integer("attention.q_lora_rank")
    yield from linear(f"{source}.q_a_proj", f"{block}.attn_q_a", rank, p.hidden, bias=False)
    yield same(f"{source}.q_a_layernorm.weight", f"{block}.attn_q_a_norm.weight", (rank,))
    yield from linear(f"{source}.q_b_proj", f"{block}.attn_q_b", n, rank, bias=False)


def absorbed(source: str, block: str, heads: int, key: int, value: int, rank: int) -> Rule:
    """`kv_b` [heads * (key + value), rank] as attn_k_b [heads, rank, key] and attn_v_b [heads, value, rank].

    source: its name in the checkpoint.
    block: what names begin with in GGUF.
    heads: number of heads.
    key: width of the part of a key that does not rotate.
    value: width of a value.
    rank: width of the latent vector.
    """
    names = (f"{block}.attn_k_b.weight", f"{block}.attn_v_b.weight")
    parts = split_inside(source, list(zip(names, (key, value), strict=True)), heads, rank)
    whole, way_back = (heads * (key + value), rank), parts.backward or unchanged

    def forward(views: Views) -> Views:
        k, v = parts.forward(views)
        return (Transpose(k), v)

    def backward(views: Views) -> Views:
        return [Reshape(view, whole) for view in way_back((Transpose(views[0]), views[1]))]

    targets = (Part(names[0], (heads, rank, key)), Part(names[1], (heads, value, rank)))
    return Rule((Part(source, whole),), targets, forward, backward)
