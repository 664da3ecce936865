"""T5, Flan-T5, mT5 and UMT5: an encoder and a decoder, or the encoder alone."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, n_layers
from gguflow.models.parameters import MAX_LAYERS, Parameters
from gguflow.models.rules import Part, Rule, linear, same
from gguflow.models.tokenizers.unigram import t5_metadata

NETWORKS = ("relu", "gated-gelu", "gated-gelu_new")
"""Feed-forward networks that llama.cpp has in this family."""

MAX_DISTANCE = 128
"""The distance from which on all tokens have one bias, a constant in llama.cpp."""

EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
"""Names of the embeddings: encoder and decoder share them, and checkpoints have one copy or more."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder with a decoder."""
    return _keys("t5", config).metadata


def encoder_metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder alone."""
    return _keys("t5encoder", config).metadata


def _keys(name: str, config: Document) -> Keys:
    message = "llama.cpp has networks of ReLU, or gated ones of GELU, in this family"
    config.require("feed_forward_proj", NETWORKS, "M-009", message)
    distance = config.integer("relative_attention_max_distance", MAX_DISTANCE)
    if distance != MAX_DISTANCE:
        message = "llama.cpp has another distance from which on the bias of attention is constant"
        where = config.at("relative_attention_max_distance")
        finding = Finding("M-009", message, where, found=distance, expected=MAX_DISTANCE)
        raise UnsupportedError(config.file, finding)
    keys = Keys(name, config)
    keys.integer("context_length", "n_positions", default=512, minimum=1)
    keys.put("embedding_length", u32(config.integer("d_model")))
    keys.put("feed_forward_length", u32(config.integer("d_ff")))
    keys.put("block_count", u32(n_layers(config)))
    if name == "t5":
        n = config.integer("num_decoder_layers", n_layers(config), maximum=MAX_LAYERS)
        keys.put("decoder_block_count", u32(n))
    keys.put("attention.head_count", u32(config.integer("num_heads")))
    keys.put("attention.key_length", u32(config.integer("d_kv")))
    keys.put("attention.value_length", u32(config.integer("d_kv")))
    epsilon = f32(config.number("layer_norm_epsilon", 1e-6))
    keys.put("attention.layer_norm_epsilon", epsilon)
    keys.put("attention.relative_buckets_count", u32(config.integer("relative_attention_num_buckets", 32)))
    keys.put("attention.layer_norm_rms_epsilon", epsilon)
    if name == "t5":
        start = config.integer("pad_token_id", 0, minimum=0)
        keys.integer("decoder_start_token_id", "decoder_start_token_id", default=start)
    return keys


def rules(p: Parameters) -> Rules:
    """Encoder and decoder; the output matrix may be the embeddings."""
    yield from encoder_rules(p)
    yield same("lm_head.weight", "output.weight", (p.n_tokens, p.hidden), required=False)
    yield from decoder.norm(p, "decoder.final_layer_norm", "dec.output_norm")
    for i in range(p.integer("decoder_block_count", p.n_layers)):
        layer, block = f"decoder.block.{i}.layer", f"dec.blk.{i}"
        yield from _attention(p, f"{layer}.0.SelfAttention", f"{block}.attn", has_bias=i == 0)
        yield from decoder.norm(p, f"{layer}.0.layer_norm", f"{block}.attn_norm")
        yield from _attention(p, f"{layer}.1.EncDecAttention", f"{block}.cross_attn", has_bias=False)
        yield from decoder.norm(p, f"{layer}.1.layer_norm", f"{block}.cross_attn_norm")
        yield from _feed_forward(p, f"{layer}.2", block)


def encoder_rules(p: Parameters) -> Rules:
    """Embeddings and the encoder."""
    for name in EMBEDDINGS:
        yield same(f"{name}.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield from decoder.norm(p, "encoder.final_layer_norm", "enc.output_norm")
    for i in range(p.n_layers):
        layer, block = f"encoder.block.{i}.layer", f"enc.blk.{i}"
        yield from _attention(p, f"{layer}.0.SelfAttention", f"{block}.attn", has_bias=i == 0)
        yield from decoder.norm(p, f"{layer}.0.layer_norm", f"{block}.attn_norm")
        yield from _feed_forward(p, f"{layer}.1", block)


def _attention(p: Parameters, source: str, target: str, *, has_bias: bool) -> Rules:
    """Four matrices, and the bias by distance: of the first layer for all in T5, of every layer in UMT5."""
    n = p.heads() * p.head_dim
    for name in "qkv":
        yield from linear(f"{source}.{name}", f"{target}_{name}", n, p.hidden, bias=False)
    yield from linear(f"{source}.o", f"{target}_o", p.hidden, n, bias=False)
    shape = (p.integer("attention.relative_buckets_count"), p.heads())
    bias = f"{source}.relative_attention_bias.weight"
    yield same(bias, f"{target}_rel_b.weight", shape, required=has_bias)


def _feed_forward(p: Parameters, source: str, block: str) -> Rules:
    """A network with a gate or without."""
    dense, shape = f"{source}.DenseReluDense", (p.wide(), p.hidden)
    pair = (("wi_0", "ffn_gate"), ("wi_1", "ffn_up"))
    yield Rule(
        tuple(Part(f"{dense}.{name}.weight", shape) for name, _ in pair),
        tuple(Part(f"{block}.{name}.weight", shape) for _, name in pair),
        is_required=False,
    )
    yield same(f"{dense}.wi.weight", f"{block}.ffn_up.weight", shape)
    yield from linear(f"{dense}.wo", f"{block}.ffn_down", p.hidden, p.wide(), bias=False)
    yield from decoder.norm(p, f"{source}.layer_norm", f"{block}.ffn_norm")


KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"),
    *("attention.layer_norm_rms_epsilon", "attention.relative_buckets_count"),
)
COPIES = (tuple(f"{name}.weight" for name in EMBEDDINGS),)

ARCHITECTURES = (
    Architecture(
        name="t5",
        classes=(
            *("T5ForConditionalGeneration", "T5WithLMHeadModel", "MT5ForConditionalGeneration"),
            *("UMT5ForConditionalGeneration", "UMT5Model"),
        ),
        metadata=metadata,
        rules=rules,
        required=KEYS,
        tokenizer=t5_metadata,
        copies=COPIES,
    ),
    Architecture(
        name="t5encoder",
        classes=("T5EncoderModel",),
        metadata=encoder_metadata,
        rules=encoder_rules,
        required=KEYS,
        tokenizer=t5_metadata,
        copies=COPIES,
    ),
)
