"""HRM-Text: two stacks of blocks that run in cycles; a file has each block once."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, head_dim
from gguflow.models.parameters import MAX_LAYERS, Parameters
from gguflow.models.rules import linear, same, split
from gguflow.models.tokenizers.bpe import bpe_metadata

PER_STACK = "hrm.layers_per_stack"


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys; the number of blocks is that of a whole run, with each block as often as it runs.

    Raises InvalidError (M-003) if this is more than llama.cpp has, and what `base_keys` raises.
    """
    name = config.first(("num_layers_per_stack", "num_hidden_layers")) or "num_hidden_layers"
    per_stack, high, low = config.integer(name), config.integer("H_cycles"), config.integer("L_cycles")
    n_blocks = per_stack * high * (low + 1)
    if n_blocks > MAX_LAYERS:
        raise config.wrong(name, per_stack, f"at most {MAX_LAYERS} blocks in a whole run, not {n_blocks}")
    keys = base_keys("hrm_text", config, layers=n_blocks)
    keys.put("rope.dimension_count", u32(head_dim(config)))
    keys.number("embedding_scale", "embedding_scale")
    keys.put(PER_STACK, u32(per_stack))
    keys.put("hrm.h_cycles", u32(high))
    keys.put("hrm.l_cycles", u32(low))
    keys.put("hrm.prefix_lm", boolean(config.flag("prefix_lm", False)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """The blocks of the low stack, then those of the high one; no norm has weights."""
    yield same("model.embed_tokens.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield same("lm_head.weight", "output.weight", (p.n_tokens, p.hidden), required=not p.is_tied)
    yield same("model.z_L_init", "hrm.z_l_init", (p.hidden,))
    per_stack, hidden, wide = p.integer(PER_STACK, minimum=1), p.hidden, p.wide()
    n = p.heads() * p.head_dim
    for number, stack in enumerate("LH"):
        for i in range(per_stack):
            layer, block = f"model.{stack}_module.layers.{i}", f"blk.{number * per_stack + i}"
            quarters = [(f"{block}.attn_{kind}.weight", n) for kind in ("gate", "q", "k", "v")]
            yield split(f"{layer}.attn.gqkv_proj.weight", quarters, (hidden,))
            yield from linear(f"{layer}.attn.o_proj", f"{block}.attn_output", hidden, n, bias=False)
            halves = [(f"{block}.ffn_{kind}.weight", wide) for kind in ("gate", "up")]
            yield split(f"{layer}.mlp.gate_up_proj.weight", halves, (hidden,))
            yield from linear(f"{layer}.mlp.down_proj", f"{block}.ffn_down", hidden, wide, bias=False)


def n_blocks(p: Parameters) -> int:
    """Blocks that a file has.

    p: hyper-parameters.
    """
    return 2 * p.integer(PER_STACK, minimum=1)


ARCHITECTURE = Architecture(
    name="hrm_text",
    classes=("HrmTextForCausalLM",),
    metadata=metadata,
    rules=rules,
    required=(*DECODER_KEYS, PER_STACK),
    tokenizer=bpe_metadata,
    n_blocks=n_blocks,
)
