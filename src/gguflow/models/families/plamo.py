"""PLaMo: Llama's attention and network side by side; heads of queries are ordered by groups of keys."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import SILU, Keys, require_activation
from gguflow.models.orders import Axes
from gguflow.models.parameters import Parameters
from gguflow.models.rules import columns, linear, ordered
from gguflow.models.tokenizers.variants import only_sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order; its context length is not in config.json."""
    require_activation(config, SILU)
    keys, heads = Keys("plamo", config), config.integer("num_attention_heads")
    shared = config.integer("n_shared_head", 8)
    if heads % shared:
        raise config.wrong("n_shared_head", shared, f"a divisor of num_attention_heads ({heads})")
    keys.put("context_length", u32(4096))
    keys.integer("embedding_length", "hidden_size", minimum=1)
    keys.integer("feed_forward_length", "intermediate_size", minimum=1)
    keys.integer("block_count", "num_hidden_layers", minimum=1)
    keys.put("attention.head_count", u32(heads))
    keys.put("attention.head_count_kv", u32(heads // shared))
    keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Query head k * n + g, which goes with key head g of n, becomes head g * r + k of r."""
    yield from decoder.ends(p)
    heads, kv_heads, width = p.heads(), p.kv_heads(), p.head_dim
    order = Axes((heads // max(kv_heads, 1), kv_heads, width), (1, 0, 2))
    for i in range(p.n_layers):
        layer, block = f"model.layers.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.norm", f"{block}.attn_norm")
        source = f"{layer}.self_attn"
        whole = (heads * width, p.hidden)
        yield ordered(f"{source}.q_proj.weight", f"{block}.attn_q.weight", whole, order)
        yield from linear(f"{source}.k_proj", f"{block}.attn_k", kv_heads * width, p.hidden, bias=False)
        yield from linear(f"{source}.v_proj", f"{block}.attn_v", kv_heads * width, p.hidden, bias=False)
        output = (p.hidden, heads * width)
        yield columns(f"{source}.o_proj.weight", f"{block}.attn_output.weight", output, order)
        yield from decoder.feed_forward(p, i, source=f"{layer}.mlp", bias=False)


ARCHITECTURE = Architecture(
    name="plamo",
    classes=("PlamoForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=only_sentencepiece_metadata,
    skipped=(r"model\.layers\.layers\.\d+\.self_attn\.rotary_emb\..*",),
    required=DECODER_KEYS,
)
