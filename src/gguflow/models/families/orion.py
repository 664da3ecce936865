"""Orion: Llama's blocks with layer norms; rows are not reordered ("neox" rope)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, string
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import SILU, Keys, require_activation, usual_rope
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.tokenizers.variants import only_sentencepiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in llama.cpp's order; the constant of the layer norms is called that of RMS norms."""
    require_activation(config, SILU)
    keys = Keys("orion", config)
    keys.put("tensor_data_layout", string("Meta AI original pth"))
    context = ("max_sequence_length", "max_position_embeddings", "model_max_length")
    keys.integer("context_length", *context, minimum=1)
    keys.integer("embedding_length", "hidden_size", minimum=1)
    keys.integer("block_count", "num_hidden_layers", minimum=1)
    keys.integer("feed_forward_length", "intermediate_size", minimum=1)
    heads = keys.integer("attention.head_count", "num_attention_heads", minimum=1)
    keys.integer("attention.head_count_kv", "num_key_value_heads", default=heads, minimum=1)
    keys.number("attention.layer_norm_epsilon", "rms_norm_eps")
    usual_rope(keys, RopeOptions(kinds=("default",)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """A decoder with biases in its norms."""
    yield from decoder.ends(p, norm_bias=True)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i, bias=True)
        yield from decoder.attention(p, i)
        yield from decoder.feed_forward(p, i)


ARCHITECTURE = Architecture(
    name="orion",
    classes=("OrionForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=only_sentencepiece_metadata,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
)
