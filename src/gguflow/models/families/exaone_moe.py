"""K-EXAONE: experts, windows that slide in most layers, and blocks that predict further tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, f32, string, u32
from gguflow.models import decoder, mixture, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies
from gguflow.models.keys import base_keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import Part, Rule
from gguflow.models.sliding import sliding_layers
from gguflow.models.tokenizers.bpe import bpe_metadata

ROPE = RopeOptions(kinds=("default", "llama3"))
NEXT = r"mtp\.layers\.(\d{1,6})\..*"
SHARED = (
    ("fc", "eh_proj"),
    ("pre_fc_norm_embedding", "enorm"),
    ("pre_fc_norm_hidden", "hnorm"),
    ("norm", "shared_head_norm"),
)
"""What all blocks for further tokens have in common: names in a checkpoint and in GGUF."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, then those for windows and experts."""
    n = next_tokens.n_named(config, "num_nextn_predict_layers", NEXT)
    keys = base_keys("exaone-moe", config, rope=ROPE, layers=n_layers(config) + n)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    if config.value("sliding_window") is not None:
        keys.put("attention.sliding_window", u32(config.integer("sliding_window")))
        keys.layers("attention.sliding_window_pattern", sliding_layers(config) or _pattern(config))
    wide, shared = config.integer("moe_intermediate_size"), config.integer("num_shared_experts", minimum=0)
    keys.put("expert_feed_forward_length", u32(wide))
    keys.put("expert_shared_count", u32(shared))
    keys.put("expert_shared_feed_forward_length", u32(wide * shared))
    keys.put("expert_weights_scale", f32(config.number("routed_scaling_factor")))
    keys.put("expert_weights_norm", boolean(config.flag("norm_topk_prob")))
    key = config.first(("first_k_dense_replace", "first_last_k_dense_replace")) or "first_k_dense_replace"
    keys.put("leading_dense_block_count", u32(mixture.n_dense(config, key, 0) or 0))
    keys.put("nextn_predict_layers", u32(n))
    keys.put("rope.scaling.type", string("none"))
    return keys.metadata


def _pattern(config: Document) -> list[bool]:
    """Which layers slide, as "LLLG" or as the number of layers from one that does not to the next."""
    said, n = config.value("sliding_window_pattern"), n_layers(config)
    if isinstance(said, str) and said:
        return [said[i % len(said)] == "L" for i in range(n)]
    if said is None or isinstance(said, str):
        return []
    period = config.integer("sliding_window_pattern")
    return [(i + 1) % period != 0 for i in range(n)]


def rules(p: Parameters) -> Rules:
    """A decoder with norms of heads, dense blocks first."""
    yield from frequencies(p)
    yield from decoder.ends(p)
    n_next = p.integer("nextn_predict_layers", 0)
    first = p.n_layers - n_next
    for i in range(p.n_layers):
        yield from _block(p, i, f"model.layers.{i}" if i < first else f"mtp.layers.{i - first}")
    if n_next:
        for source, target in SHARED:
            shape = (p.hidden, 2 * p.hidden) if source == "fc" else (p.hidden,)
            names = [f"blk.{i}.nextn.{target}.weight" for i in range(first, p.n_layers)]
            yield for_all(f"mtp.{source}.weight", names, shape)


def _block(p: Parameters, i: int, source: str) -> Rules:
    for name, target in (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")):
        yield from decoder.norm(p, f"{source}.{name}", f"blk.{i}.{target}")
    yield from decoder.attention(
        p, i, source=f"{source}.self_attn", head_norms=True, qkv_bias=False, output_bias=False
    )
    if mixture.is_dense(p, i) or next_tokens.is_next(p, i):
        yield from decoder.feed_forward(p, i, source=f"{source}.mlp", bias=False)
    else:
        shared = p.integer("expert_shared_feed_forward_length", 0)
        bias = "e_score_correction_bias"
        yield from mixture.rules(p, i, source=f"{source}.mlp", bias=bias, shared_width=shared)


def for_all(source: str, targets: Sequence[str], shape: tuple[int, ...]) -> Rule:
    """One tensor that several blocks have.

    source: in the checkpoint.
    targets: in GGUF.
    shape: of all.
    """
    parts = tuple(Part(name, shape) for name in targets)
    return Rule(
        (Part(source, shape),), parts, lambda views: (views[0],) * len(parts), lambda views: (views[0],)
    )


def rename(name: str, config: Document) -> str | None:
    """Leave out blocks for further tokens, if the user wants none."""
    return None if not config.next_tokens and name.startswith("mtp.") else name


ARCHITECTURE = Architecture(
    name="exaone-moe",
    classes=("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    rename=rename,
    computed=(r"rope_freqs\.weight",),
)
