"""What Llama, Qwen2 and Qwen3 share: blocks of grouped-query attention and a gated feed-forward network."""

from __future__ import annotations

from dataclasses import dataclass

from gguflow.container.metadata import Metadata, boolean, f32, u32
from gguflow.models.architecture import MAX_LAYERS, Expected
from gguflow.models.base import RopeOrder
from gguflow.models.documents import Document
from gguflow.models.rope import rope_metadata

MAX_EXPERTS = 512
"""llama.cpp's LLAMA_MAX_EXPERTS."""


ORIGINALS = (
    "model.embed_tokens",
    "model.norm",
    "lm_head",
    *(
        f"model.layers.{{i}}.{name}"
        for name in (
            *("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
            *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
            *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        )
    ),
)
"""transformers' names of the tensors of a decoder, without .weight and .bias."""


@dataclass(frozen=True)
class DecoderSizes:
    """The hyper-parameters that shapes depend on.

    n_experts: experts of each layer; 0 for a dense network.
    expert_size: width of each expert.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    n_experts: int = 0
    expert_size: int = 0

    @classmethod
    def of(cls, config: Document, head_dim: int | None = None, experts: str = "") -> DecoderSizes:
        """Read the sizes from config.json.

        head_dim: the default; None for hidden_size / n_heads.
        experts: the key for the number of experts; "" if there are none.

        Raises InvalidError if a key is missing (M-002) or sizes do not divide (M-003).
        """
        hidden_size, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        n_kv_heads = config.integer("num_key_value_heads", n_heads)
        head_dim = config.integer("head_dim", head_dim or max(hidden_size // n_heads, 1))
        if head_dim % 2:
            raise config.wrong("head_dim", head_dim, "an even number")
        if n_heads % n_kv_heads:
            raise config.wrong(
                "num_key_value_heads", n_kv_heads, f"a divisor of num_attention_heads ({n_heads})"
            )
        return cls(
            config.integer("num_hidden_layers", maximum=MAX_LAYERS),
            n_heads,
            n_kv_heads,
            head_dim,
            hidden_size,
            config.integer("intermediate_size"),
            config.integer("vocab_size"),
            config.integer(experts, maximum=MAX_EXPERTS) if experts else 0,
            config.integer("moe_intermediate_size", config.integer("intermediate_size")) if experts else 0,
        )


def decoder_metadata(name: str, config: Document, sizes: DecoderSizes, *, head_dim: bool = True) -> Metadata:
    """The hyper-parameters' keys in the order of llama.cpp's converter.

    head_dim: whether to write key_length and value_length.
    """
    message = "llama.cpp computes SiLU in all models of this family"
    config.require("hidden_act", ("silu", "swish"), "M-009", message)
    metadata: Metadata = {
        f"{name}.block_count": u32(sizes.n_layers),
        f"{name}.context_length": u32(config.integer("max_position_embeddings")),
        f"{name}.embedding_length": u32(sizes.hidden_size),
        f"{name}.feed_forward_length": u32(sizes.intermediate_size),
        f"{name}.attention.head_count": u32(sizes.n_heads),
        f"{name}.attention.head_count_kv": u32(sizes.n_kv_heads),
    }
    if not config.flag("is_causal", True):
        metadata[f"{name}.attention.causal"] = boolean(False)
    metadata |= rope_metadata(name, config)
    metadata[f"{name}.attention.layer_norm_rms_epsilon"] = f32(config.number("rms_norm_eps"))
    if sizes.n_experts:
        metadata[f"{name}.expert_count"] = u32(sizes.n_experts)
        metadata[f"{name}.expert_used_count"] = u32(
            config.integer("num_experts_per_tok", maximum=sizes.n_experts)
        )
    if head_dim:
        metadata[f"{name}.attention.key_length"] = u32(sizes.head_dim)
        metadata[f"{name}.attention.value_length"] = u32(sizes.head_dim)
    return metadata


def decoder_tensors(
    config: Document,
    sizes: DecoderSizes,
    *,
    rope_order: bool = False,
    qkv_bias: bool = False,
    head_norms: bool = False,
    headless: bool = False,
) -> dict[str, Expected]:
    """The expected tensors by GGUF name; shapes are [out, in].

    rope_order: whether rows of Q and K are rearranged.
    qkv_bias: whether Q, K and V must have biases (otherwise they may).
    head_norms: whether Q and K are normalized per head.
    headless: whether a checkpoint may lack the output matrix (a model without a language-model head).
    """
    hidden = sizes.hidden_size
    q_rows, kv_rows = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
    q_order = RopeOrder(sizes.n_heads) if rope_order else None
    k_order = RopeOrder(sizes.n_kv_heads) if rope_order else None
    tied = config.flag("tie_word_embeddings", False)
    tensors = {
        "token_embd.weight": Expected((sizes.vocab_size, hidden)),
        "output_norm.weight": Expected((hidden,)),
        "output.weight": Expected((sizes.vocab_size, hidden), required=not (tied or headless)),
    }
    for layer in range(sizes.n_layers):
        block = f"blk.{layer}"
        tensors |= {
            f"{block}.attn_norm.weight": Expected((hidden,)),
            f"{block}.attn_q.weight": Expected((q_rows, hidden), row_order=q_order),
            f"{block}.attn_k.weight": Expected((kv_rows, hidden), row_order=k_order),
            f"{block}.attn_v.weight": Expected((kv_rows, hidden)),
            f"{block}.attn_output.weight": Expected((hidden, q_rows)),
            f"{block}.attn_q.bias": Expected((q_rows,), qkv_bias, q_order),
            f"{block}.attn_k.bias": Expected((kv_rows,), qkv_bias, k_order),
            f"{block}.attn_v.bias": Expected((kv_rows,), qkv_bias),
            f"{block}.attn_output.bias": Expected((hidden,), required=False),
            f"{block}.ffn_norm.weight": Expected((hidden,)),
        }
        tensors |= _experts(block, sizes) if sizes.n_experts else _feed_forward(block, sizes)
        if head_norms:
            tensors[f"{block}.attn_q_norm.weight"] = Expected((sizes.head_dim,))
            tensors[f"{block}.attn_k_norm.weight"] = Expected((sizes.head_dim,))
    return tensors


def _feed_forward(block: str, sizes: DecoderSizes) -> dict[str, Expected]:
    hidden, wide = sizes.hidden_size, sizes.intermediate_size
    return {
        f"{block}.ffn_gate.weight": Expected((wide, hidden)),
        f"{block}.ffn_up.weight": Expected((wide, hidden)),
        f"{block}.ffn_down.weight": Expected((hidden, wide)),
        f"{block}.ffn_gate.bias": Expected((wide,), required=False),
        f"{block}.ffn_up.bias": Expected((wide,), required=False),
        f"{block}.ffn_down.bias": Expected((hidden,), required=False),
    }


def _experts(block: str, sizes: DecoderSizes) -> dict[str, Expected]:
    """The router, and the stacked matrices of all experts: [experts, out, in]."""
    n, hidden, wide = sizes.n_experts, sizes.hidden_size, sizes.expert_size
    return {
        f"{block}.ffn_gate_inp.weight": Expected((n, hidden)),
        f"{block}.ffn_gate_exps.weight": Expected((n, wide, hidden)),
        f"{block}.ffn_up_exps.weight": Expected((n, wide, hidden)),
        f"{block}.ffn_down_exps.weight": Expected((n, hidden, wide)),
    }
