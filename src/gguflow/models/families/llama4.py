"""Llama 4: experts stored as [in, out], beside a shared one, in all layers of a period's end."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import frequencies, llama_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import FULL
from gguflow.models.rules import exchanged, split_inside, transposed
from gguflow.models.text_parts import OTHER_INPUTS, text_name
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys; `intermediate_size` is the width of an expert, `intermediate_size_mlp` of a network."""
    keys = llama_keys("llama4", config)
    keys.put("feed_forward_length", u32(config.integer("intermediate_size_mlp")))
    keys.put("interleave_moe_layer_step", u32(config.integer("interleave_moe_layer_step")))
    keys.put("expert_feed_forward_length", u32(config.integer("intermediate_size")))
    kinds = config.items("layer_types")
    if kinds and all(kind == FULL for kind in kinds):
        keys.put("attention.sliding_window", u32(0))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Rows of Q and K are in the order of llama.cpp's "norm" rope already."""
    yield from frequencies(p)
    yield from decoder.ends(p)
    step = p.integer("interleave_moe_layer_step", minimum=1)
    for i in range(p.n_layers):
        source, block = f"model.layers.{i}.feed_forward", f"blk.{i}"
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i)
        if (i + 1) % step:
            yield from decoder.feed_forward(p, i, source=source)
            continue
        n, wide = p.n_experts, p.expert_wide
        yield from decoder.router(p, i, source=f"{source}.router")
        gate_up = [(f"{block}.ffn_{kind}_exps.weight", wide) for kind in ("gate", "up")]
        yield exchanged(split_inside(f"{source}.experts.gate_up_proj", gate_up, n, p.hidden))
        down = f"{block}.ffn_down_exps.weight"
        yield transposed(f"{source}.experts.down_proj", down, (n, p.hidden, wide))
        shared = f"{source}.shared_expert"
        yield from decoder.feed_forward(p, i, source=shared, width=wide, suffix="_shexp")


ARCHITECTURE = Architecture(
    name="llama4",
    classes=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    rename=text_name,
    skipped=OTHER_INPUTS,
    computed=(r"rope_freqs\.weight",),
    required=(*DECODER_KEYS, "expert_count", "interleave_moe_layer_step"),
)
