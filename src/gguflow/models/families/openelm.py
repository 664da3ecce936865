"""OpenELM: other numbers of heads, and another width, in each layer; norms of heads."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions
from gguflow.models.rules import linear, split
from gguflow.models.tokenizers.variants import only_sentencepiece_metadata

ROPE = RopeOptions(kinds=("default",), read=frozenset(("rope_freq_constant", "rope_max_length")))


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order; sizes are arrays with one number for each layer."""
    keys, layers = Keys("openelm", config), config.integer("num_transformer_layers", maximum=512)
    hidden, head = config.integer("model_dim"), config.integer("head_dim")
    keys.put("block_count", u32(layers))
    keys.integer("context_length", "max_context_length", minimum=1)
    keys.put("embedding_length", u32(hidden))
    keys.layers("feed_forward_length", widths(config, hidden))
    keys.integers("attention.head_count", "num_query_heads")
    keys.integers("attention.head_count_kv", "num_kv_heads")
    for key in ("ffn_multipliers", "num_query_heads", "num_kv_heads"):
        if len(config.items(key)) != layers:
            raise config.wrong(key, len(config.items(key)), f"one for each of {layers} layers")
    Rope.of(
        config, RopeOptions(kinds=("default",), read=frozenset(("rope_freq_constant", "rope_max_length")))
    )
    keys.put("rope.freq_base", f32(config.number("rope_freq_constant")))
    keys.put("attention.layer_norm_rms_epsilon", f32(1e-6))
    keys.put("rope.dimension_count", u32(head))
    keys.put("attention.key_length", u32(head))
    keys.put("attention.value_length", u32(head))
    return keys.metadata


def widths(config: Document, hidden: int) -> list[int]:
    """Of the networks: multiples of a divisor, not more than a tenth below what config.json says."""
    divisor, found = config.integer("ffn_dim_divisor"), []
    for i, multiplier in enumerate(config.items("ffn_multipliers")):
        if (
            isinstance(multiplier, bool)
            or not isinstance(multiplier, (int, float))
            or not 0 < multiplier < 1e6
        ):
            raise config.wrong("ffn_multipliers", multiplier, "a positive number", i)
        wanted = multiplier * hidden
        n = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        found.append(n + divisor if n < 0.9 * wanted else n)
    return found


def rules(p: Parameters) -> Rules:
    """Fused queries, keys and values stay one matrix; gate and up are taken apart."""
    embeddings = "transformer.token_embeddings"
    yield from decoder.ends(p, embeddings=embeddings, norm="transformer.norm", may_lack_head=True)
    for i in range(p.n_layers):
        layer, block, width = f"transformer.layers.{i}", f"blk.{i}", p.head_dim
        yield from decoder.norm(p, f"{layer}.attn_norm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.ffn_norm", f"{block}.ffn_norm")
        rows = (p.heads(i) + 2 * p.kv_heads(i)) * width
        yield from linear(f"{layer}.attn.qkv_proj", f"{block}.attn_qkv", rows, p.hidden, bias=False)
        for kind in "qk":
            yield from decoder.norm(p, f"{layer}.attn.{kind}_norm", f"{block}.attn_{kind}_norm", n=width)
        source = f"{layer}.attn.out_proj"
        yield from linear(source, f"{block}.attn_output", p.hidden, p.heads(i) * width, bias=False)
        gate_up = [(f"{block}.ffn_{kind}.weight", p.wide(i)) for kind in ("gate", "up")]
        yield split(f"{layer}.ffn.proj_1.weight", gate_up, (p.hidden,))
        yield from linear(f"{layer}.ffn.proj_2", f"{block}.ffn_down", p.hidden, p.wide(i), bias=False)


ARCHITECTURE = Architecture(
    name="openelm",
    classes=("OpenELMForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=only_sentencepiece_metadata,
    required=DECODER_KEYS,
)
