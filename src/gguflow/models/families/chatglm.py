"""ChatGLM and GLM-4 9B, in their own layout and in that of transformers (GlmForCausalLM)."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families.glm4moe import rotated
from gguflow.models.keys import SILU, Keys, head_dim, hidden_size, n_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rope import Rope, RopeOptions
from gguflow.models.rules import linear, optional
from gguflow.models.tokenizers.chatglm import chatglm3_metadata
from gguflow.models.tokenizers.variants import chatglm_metadata

ROPE = RopeOptions(kinds=("default",), partial=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys in the order of llama.cpp's converter, which does not begin with the base table here."""
    if "seq_length" in config:
        config = config.with_values(max_position_embeddings=config.integer("seq_length"))
    is_own = class_name(config) != "GlmForCausalLM"
    config.require("hidden_act", SILU, "M-009", "llama.cpp computes SwiGLU in all models of this family")
    keys = Keys("chatglm", config)
    hidden, heads, width = hidden_size(config), n_heads(config), head_dim(config)
    keys.integer("context_length", "max_position_embeddings", default=hidden, minimum=1)
    keys.put("embedding_length", u32(hidden))
    keys.integer("feed_forward_length", "ffn_hidden_size", "intermediate_size", default=4 * hidden, minimum=1)
    keys.put("block_count", u32(n_layers(config)))
    keys.put("attention.head_count", u32(heads))
    keys.integer(
        "attention.head_count_kv", "multi_query_group_num", "num_key_value_heads", default=heads, minimum=1
    )
    keys.number("attention.layer_norm_rms_epsilon", "layernorm_epsilon", "rms_norm_eps", default=1e-5)
    keys.put("rope.dimension_count", u32(rotated(config, ROPE)))
    keys.metadata["tokenizer.ggml.add_bos_token"] = boolean(False)
    theta = 10000.0 * config.number("rope_ratio", 1.0) if is_own else Rope.of(config, ROPE).theta
    keys.put("rope.freq_base", f32(theta))
    if width * heads != hidden:
        keys.put("attention.key_length", u32(width))
        keys.put("attention.value_length", u32(width))
    if not is_own:
        _note_differences(keys, hidden, heads)
    return keys.metadata


def _note_differences(keys: Keys, hidden: int, heads: int) -> None:
    """Whether llama.cpp's converter, which knows the names of the own layout only, gives other values."""
    share = Rope.of(keys.config, ROPE).parameters.number("partial_rotary_factor", 0.5)
    defaults = {
        "context_length": u32(hidden),
        "attention.layer_norm_rms_epsilon": f32(1e-5),
        "rope.dimension_count": u32(int(hidden // heads * share)),
        "rope.freq_base": f32(10000.0),
    }
    is_same = all(keys.metadata[f"chatglm.{key}"] == value for key, value in defaults.items())
    if not is_same or "chatglm.attention.key_length" in keys.metadata:
        keys.config.applied.add("glm-parameters")


def rules(p: Parameters) -> Rules:
    """The own layout; a GGUF file that does not say its class may be of either."""
    yield from optional(own_rules(p), needed=p.config is not None)
    if p.config is None:
        yield from optional(hf_rules(p))


def hf_rules(p: Parameters) -> Rules:
    """The layout of transformers."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, output_bias=False)
        yield from linear(f"{layer}.mlp.gate_up_proj", f"{block}.ffn_up", 2 * p.wide(i), p.hidden, bias=False)
        yield from linear(f"{layer}.mlp.down_proj", f"{block}.ffn_down", p.hidden, p.wide(i), bias=False)


def own_rules(p: Parameters) -> Rules:
    """ChatGLM's own layout."""
    yield from decoder.ends(
        p,
        embeddings="transformer.embedding.word_embeddings",
        norm="transformer.encoder.final_layernorm",
        head="transformer.output_layer",
    )
    n_qkv = (p.heads() + 2 * p.kv_heads()) * p.head_dim
    for i in range(p.n_layers):
        layer, block = f"transformer.encoder.layers.{i}", f"blk.{i}"
        yield from decoder.norms(p, i, source="transformer.encoder.layers")
        attention = f"{layer}.self_attention"
        yield from linear(f"{attention}.query_key_value", f"{block}.attn_qkv", n_qkv, p.hidden)
        output = (p.hidden, p.heads() * p.head_dim)
        yield from linear(f"{attention}.dense", f"{block}.attn_output", *output, bias=False)
        yield from linear(
            f"{layer}.mlp.dense_h_to_4h", f"{block}.ffn_up", 2 * p.wide(i), p.hidden, bias=False
        )
        yield from linear(f"{layer}.mlp.dense_4h_to_h", f"{block}.ffn_down", p.hidden, p.wide(i), bias=False)


def rename(name: str, config: Document) -> str:
    """Add the prefix of models with a head, in the own layout."""
    is_bare = name.startswith(("embedding.", "encoder.", "output_layer."))
    return f"transformer.{name}" if is_bare else name


ARCHITECTURES = (
    Architecture(
        name="chatglm",
        classes=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
        metadata=metadata,
        rules=rules,
        tokenizer=chatglm3_metadata,
        rename=rename,
        skipped=(r".*rotary_pos_emb\.inv_freq",),
    ),
    Architecture(
        name="chatglm",
        classes=("GlmForCausalLM",),
        metadata=metadata,
        rules=hf_rules,
        tokenizer=chatglm_metadata,
        is_main=False,
    ),
)
