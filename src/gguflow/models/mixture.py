"""Mixtures of experts of DeepSeek's kind: some dense blocks first, then routed experts beside shared ones."""

from __future__ import annotations

from collections.abc import Iterator

from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.documents import Document
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Given, Rule, same


def n_dense(
    config: Document,
    key: str = "first_k_dense_replace",
    default: int | None = None,
    *,
    is_written: bool = True,
) -> int | None:
    """Number of dense blocks before those with experts, None if config.json does not say it.

    transformers 5 writes a kind for each block (`mlp_layer_types`), and builds the model by it alone.

    config: config.json.
    key: of the number.
    default: if there is none.
    is_written: whether the file says it, where it may differ from what llama.cpp writes.

    Raises InvalidError (M-003), UnsupportedError (M-009) for other orders, which llama.cpp does not have.
    """
    said = config.integer(key, minimum=0) if config.first((key,)) else default
    kinds = config.items("mlp_layer_types")
    if not kinds or "mlp_layer_types" not in config:
        return said
    n = next((i for i, kind in enumerate(kinds) if kind != "dense"), len(kinds))
    for i, kind in enumerate(kinds):
        if kind != ("dense" if i < n else "sparse"):
            message = "llama.cpp has dense blocks only before those with experts in this family of models"
            finding = Finding(
                "M-009", message, config.at("mlp_layer_types", i), found=kind, expected="sparse"
            )
            raise UnsupportedError(config.file, finding)
    if n != said and is_written:
        config.applied.add("dense-blocks")
    return n


def is_dense(p: Parameters, i: int) -> bool:
    """Whether a block has a feed-forward network instead of experts.

    p: hyper-parameters.
    i: number of the block.
    """
    return not p.n_experts or i < p.integer("leading_dense_block_count", 0)


def rules(
    p: Parameters,
    i: int,
    *,
    source: str = "model.layers.{i}.mlp",
    gate: str = "gate",
    bias: str = "gate.e_score_correction_bias",
    shared: str = "shared_experts",
    shared_width: int | None = None,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    fused: bool = True,
) -> Iterator[Rule | Given]:
    """A router with a bias that corrects its choices, experts, and shared experts as one network.

    p: hyper-parameters.
    i: number of the block.
    source: what names begin with in the checkpoint; {i} is the block.
    gate: name of the router, without .weight.
    bias: name of the router's bias; "" for none. A checkpoint may be without it.
    shared: what names of shared experts begin with; "" for none.
    shared_width: width of all shared experts together; None for that of an expert times their number.
    names: of the matrices gate, up and down.
    fused: whether a checkpoint may have experts stacked already, as in `decoder.experts`.
    """
    source = source.replace("{i}", str(i))
    yield from decoder.router(p, i, source=f"{source}.{gate}")
    if bias:
        yield same(f"{source}.{bias}", f"blk.{i}.exp_probs_b.bias", (p.n_experts,), required=False)
    yield from decoder.experts(p, i, source=f"{source}.experts", names=names, fused=fused)
    wide = p.integer("expert_shared_count", 1) * p.expert_wide if shared_width is None else shared_width
    if shared and wide:
        yield from decoder.feed_forward(
            p, i, source=f"{source}.{shared}", names=names, width=wide, suffix="_shexp", bias=False
        )
