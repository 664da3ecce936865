"""StableLM: layer norms, a part of each head rotates, perhaps norms of heads and a parallel network."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import SILU, Keys, head_dim, require_activation, usual_rope
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import optional, stack
from gguflow.models.tokenizers.bpe import bpe_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order."""
    require_activation(config, SILU)
    keys = Keys("stablelm", config)
    keys.integer("context_length", "max_position_embeddings", minimum=1)
    keys.integer("embedding_length", "hidden_size", minimum=1)
    keys.integer("block_count", "num_hidden_layers", minimum=1)
    keys.integer("feed_forward_length", "intermediate_size", minimum=1)
    rope = usual_rope(keys, RopeOptions(kinds=("default",), partial=True))
    keys.put("rope.dimension_count", u32(int(rope.partial * head_dim(config))))
    keys.integer("attention.head_count", "num_attention_heads", minimum=1)
    keys.integer("attention.head_count_kv", "num_key_value_heads", minimum=1)
    keys.put("use_parallel_residual", boolean(config.flag("use_parallel_residual", True)))
    keys.number("attention.layer_norm_epsilon", "layer_norm_eps", "norm_eps")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder; where attention and the network are parallel they share a norm."""
    yield from decoder.ends(p, norm_bias=True)
    is_parallel = p.flag("use_parallel_residual")
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.input_layernorm", f"{block}.attn_norm", bias=True)
        second = decoder.norm(p, f"{layer}.post_attention_layernorm", f"{block}.ffn_norm", bias=True)
        yield from optional(second) if is_parallel else second
        yield from decoder.attention(p, i)
        for kind, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            each = [f"{layer}.self_attn.{kind}_layernorm.norms.{head}.weight" for head in range(n)]
            name = f"{block}.attn_{kind}_norm.weight"
            yield stack(each, name, (p.head_dim,), required=False)
        yield from decoder.feed_forward(p, i)


ARCHITECTURE = Architecture(
    name="stablelm",
    classes=("StableLmForCausalLM", "StableLMEpochForCausalLM", "LlavaStableLMEpochForCausalLM"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
