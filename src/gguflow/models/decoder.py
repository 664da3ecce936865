"""What most decoders share: rules for embeddings, grouped-query attention, feed-forward networks and experts.

Names in a checkpoint are those of transformers unless a family says otherwise. Shapes are [out, in].
"""

from __future__ import annotations

from collections.abc import Iterator

from gguflow.models.orders import Order, RopeOrder
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Given, Rule, linear, same, shifted, split, split_inside, stack
from gguflow.models.rules import transposed as exchanged

Rules = Iterator[Rule | Given]


def ends(
    p: Parameters,
    *,
    embeddings: str = "model.embed_tokens",
    norm: str = "model.norm",
    head: str = "lm_head",
    norm_bias: bool = False,
    head_bias: bool = False,
    may_lack_head: bool = False,
    shift: bool = False,
) -> Rules:
    """Token embeddings, the last norm, and the output matrix.

    p: hyper-parameters.
    embeddings: name of the embeddings in the checkpoint, without .weight.
    norm: name of the last norm.
    head: name of the output matrix.
    norm_bias: whether the norm has a bias.
    head_bias: whether the output matrix may have one.
    may_lack_head: whether a checkpoint may be without an output matrix, as is one whose embeddings are tied.
    shift: whether the norm is stored as the difference from one.
    """
    yield same(f"{embeddings}.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield (shifted if shift else same)(f"{norm}.weight", "output_norm.weight", (p.hidden,))
    if norm_bias:
        yield same(f"{norm}.bias", "output_norm.bias", (p.hidden,))
    is_needed = not (p.is_tied or may_lack_head)
    yield same(f"{head}.weight", "output.weight", (p.n_tokens, p.hidden), required=is_needed)
    if head_bias:
        yield same(f"{head}.bias", "output.bias", (p.n_tokens,), required=False)


def norm(
    p: Parameters,
    source: str,
    target: str,
    *,
    bias: bool = False,
    n: int | None = None,
    shift: bool = False,
) -> Rules:
    """The weight of a norm, and its bias.

    p: hyper-parameters.
    source: in the checkpoint, without .weight.
    target: in GGUF, without .weight.
    bias: whether it has a bias.
    n: its width; None for that of the residual stream.
    shift: whether the weight is stored as the difference from one.
    """
    yield (shifted if shift else same)(f"{source}.weight", f"{target}.weight", (n or p.hidden,))
    if bias:
        yield same(f"{source}.bias", f"{target}.bias", (n or p.hidden,))


def norms(
    p: Parameters, i: int, *, source: str = "model.layers", bias: bool = False, shift: bool = False
) -> Rules:
    """The norms before attention and before the feed-forward network.

    p: hyper-parameters.
    i: number of the layer.
    source: what the names of layers begin with in the checkpoint.
    bias: whether they have biases.
    shift: whether their weights are stored as the difference from one.
    """
    for name, target in (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")):
        yield from norm(p, f"{source}.{i}.{name}", f"blk.{i}.{target}", bias=bias, shift=shift)


def attention(
    p: Parameters,
    i: int,
    *,
    source: str = "model.layers.{i}.self_attn",
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    rotate: bool = False,
    rotated: int | None = None,
    qkv_bias: bool | None = None,
    output_bias: bool | None = None,
    head_norms: bool = False,
    shift: bool = False,
    gated: bool = False,
) -> Rules:
    """Grouped-query attention: four matrices, perhaps with biases and norms of heads.

    p: hyper-parameters.
    i: number of the layer.
    source: what names of attention begin with in the checkpoint; {i} is the layer.
    names: of the matrices of queries, keys, values and outputs.
    rotate: whether rows of Q and K are rearranged for llama.cpp's "norm" rope.
    rotated: rows of a head that rotate, its first ones; None for all.
    qkv_bias: whether Q, K and V have biases; None for perhaps.
    output_bias: whether the output has one; None for perhaps.
    head_norms: whether Q and K are normalized per head.
    shift: whether the weights of these norms are stored as the difference from one.
    gated: whether the matrix of queries has as many rows again, of a gate.
    """
    source = source.replace("{i}", str(i))
    heads, kv_heads, width, value = p.heads(i), p.kv_heads(i), p.head_dim, p.value_dim
    order: Order | None = RopeOrder(p.rotated_dim, rotated) if rotate else None
    q, k, v, o = names
    block = f"blk.{i}"
    q_rows = heads * width * (2 if gated else 1)
    yield from linear(f"{source}.{q}", f"{block}.attn_q", q_rows, p.hidden, bias=qkv_bias, order=order)
    yield from linear(
        f"{source}.{k}", f"{block}.attn_k", kv_heads * width, p.hidden, bias=qkv_bias, order=order
    )
    yield from linear(f"{source}.{v}", f"{block}.attn_v", kv_heads * value, p.hidden, bias=qkv_bias)
    yield from linear(f"{source}.{o}", f"{block}.attn_output", p.hidden, heads * value, bias=output_bias)
    if head_norms:
        for x in "qk":
            yield from norm(p, f"{source}.{x}_norm", f"{block}.attn_{x}_norm", n=width, shift=shift)


def feed_forward(
    p: Parameters,
    i: int,
    *,
    source: str = "model.layers.{i}.mlp",
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    width: int | None = None,
    bias: bool | None = None,
    suffix: str = "",
) -> Rules:
    """A gated feed-forward network.

    p: hyper-parameters.
    i: number of the layer.
    source: what its names begin with in the checkpoint; {i} is the layer.
    names: of the matrices gate, up and down; "" for a network without gate.
    width: its width; None for `feed_forward_length`.
    bias: whether the matrices have biases; None for perhaps.
    suffix: of the names in GGUF: "_shexp" for a shared expert.
    """
    source = source.replace("{i}", str(i))
    wide = p.wide(i) if width is None else width
    for name, kind in zip(names, ("gate", "up"), strict=False):
        if name:
            yield from linear(f"{source}.{name}", f"blk.{i}.ffn_{kind}{suffix}", wide, p.hidden, bias=bias)
    yield from linear(f"{source}.{names[2]}", f"blk.{i}.ffn_down{suffix}", p.hidden, wide, bias=bias)


def router(p: Parameters, i: int, *, source: str = "model.layers.{i}.mlp.gate") -> Rules:
    """The matrix that chooses experts.

    p: hyper-parameters.
    i: number of the layer.
    source: its name in the checkpoint, without .weight; {i} is the layer.
    """
    name = source.replace("{i}", str(i))
    yield same(f"{name}.weight", f"blk.{i}.ffn_gate_inp.weight", (p.n_experts, p.hidden))


def experts(
    p: Parameters,
    i: int,
    *,
    source: str = "model.layers.{i}.mlp.experts",
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    width: int | None = None,
    fused: bool = False,
    transposed: bool = False,
) -> Rules:
    """The matrices of all experts of a layer, stacked: [experts, out, in].

    p: hyper-parameters.
    i: number of the layer.
    source: what names of experts begin with in the checkpoint; {i} is the layer.
    names: of the matrices gate, up and down; "" for experts without gate.
    width: of an expert; None for `expert_feed_forward_length`.
    fused: whether a checkpoint may have them stacked already, as transformers 5 saves some: gate_up_proj
        [experts, 2 * width, hidden] and down_proj [experts, hidden, width].
    transposed: whether these have their last two axes exchanged.
    """
    source = source.replace("{i}", str(i))
    n, wide, block = p.n_experts, p.expert_wide if width is None else width, f"blk.{i}"
    for name, kind, shape in zip(
        names, ("gate", "up", "down"), ((wide, p.hidden), (wide, p.hidden), (p.hidden, wide)), strict=True
    ):
        if name:
            each = [f"{source}.{x}.{name}.weight" for x in range(n)]
            yield stack(each, f"{block}.ffn_{kind}_exps.weight", shape)
    if fused:
        gate_up = [(f"{block}.ffn_{kind}_exps.weight", wide) for kind in ("gate", "up")]
        for suffix in ("", ".weight"):
            yield split_inside(f"{source}.gate_up_proj{suffix}", gate_up, n, p.hidden, transpose=transposed)
            yield (exchanged if transposed else same)(
                f"{source}.down_proj{suffix}", f"{block}.ffn_down_exps.weight", (n, p.hidden, wide)
            )


def fused_qkv(p: Parameters, i: int, source: str, *, bias: bool | None = None, rotate: bool = False) -> Rules:
    """One matrix of queries, keys and values, taken apart.

    p: hyper-parameters.
    i: number of the layer.
    source: its name in the checkpoint, without .weight.
    bias: whether it has a bias; None for perhaps.
    rotate: whether rows of Q and K are rearranged for llama.cpp's "norm" rope.
    """
    order = RopeOrder(p.rotated_dim) if rotate else None
    rows = (p.heads(i) * p.head_dim, p.kv_heads(i) * p.head_dim, p.kv_heads(i) * p.value_dim)
    for kind, rest in (("weight", (p.hidden,)), ("bias", ())):
        if kind == "weight" or bias is not False:
            targets = [(f"blk.{i}.attn_{x}.{kind}", n) for x, n in zip("qkv", rows, strict=True)]
            yield split(
                f"{source}.{kind}",
                targets,
                rest,
                orders=(order, order, None),
                required=kind == "weight" or bias is True,
            )
