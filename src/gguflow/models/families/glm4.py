"""GLM-4 (0414), GLM-4.1V and GLM-OCR: norms before and after attention and feed-forward network."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder, next_tokens
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.glm4moe import ROPE, VISION, rotated, text_name
from gguflow.models.keys import base_keys, n_layers
from gguflow.models.orders import RopeOrder
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear
from gguflow.models.tokenizers.variants import glm_edge_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and how much of a head rotates."""
    n = next_tokens.n_next(config)
    keys = base_keys("glm4", config, rope=ROPE, layers=n_layers(config) + n)
    keys.put("rope.dimension_count", u32(rotated(config, ROPE)))
    next_tokens.put_number(keys, n)
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Blocks whose gate and up are one matrix, which llama.cpp calls ffn_up.

    Positions of several dimensions rotate halves of a head in llama.cpp, and neighbours in these checkpoints.
    """
    rotated = p.integer("rope.dimension_count")
    order = RopeOrder(p.head_dim, rotated).inverse if p.has("rope.dimension_sections") else None
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        attn = f"{layer}.self_attn"
        for source, target in (
            ("input_layernorm", "attn_norm"),
            ("post_self_attn_layernorm", "post_attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("post_mlp_layernorm", "post_ffw_norm"),
        ):
            yield from decoder.norm(p, f"{layer}.{source}", f"{block}.{target}")
        for x, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            yield from linear(f"{attn}.{x}_proj", f"{block}.attn_{x}", n * p.head_dim, p.hidden, order=order)
        yield from linear(f"{attn}.v_proj", f"{block}.attn_v", p.kv_heads(i) * p.value_dim, p.hidden)
        output = (p.hidden, p.heads(i) * p.value_dim)
        yield from linear(f"{attn}.o_proj", f"{block}.attn_output", *output, bias=False)
        yield from linear(f"{layer}.mlp.gate_up_proj", f"{block}.ffn_up", 2 * p.wide(i), p.hidden, bias=False)
        yield from linear(f"{layer}.mlp.down_proj", f"{block}.ffn_down", p.hidden, p.wide(i), bias=False)
        if next_tokens.is_next(p, i):
            yield from next_tokens.rules(p, i)


ARCHITECTURE = Architecture(
    name="glm4",
    classes=("Glm4ForCausalLM", "Glm4vForConditionalGeneration", "GlmOcrForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    tokenizer=glm_edge_metadata,
    rename=text_name,
    skipped=VISION,
)
