"""LFM2: short convolutions in most layers, attention in some; dense, of experts, and for embeddings."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, base_keys, n_kv_heads, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import pooling_metadata
from gguflow.models.rules import linear, reshaped, same
from gguflow.models.tokenizers.bpe import bpe_metadata


def first_keys(name: str, config: Document) -> Keys:
    """The base keys; layers of convolutions have no key heads.

    name: `general.architecture`.
    config: config.json.

    Raises what `base_keys` raises.
    """
    keys = base_keys(name, config)
    kinds = config.items("layer_types")
    if len(kinds) != n_layers(config):
        raise config.wrong("layer_types", len(kinds), f"one for each of {n_layers(config)} layers")
    each = [0 if kind == "conv" else n_kv_heads(config) for kind in kinds]
    keys.layers("attention.head_count_kv", each)
    return keys


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of a dense model. Raises UnsupportedError (M-008) for one with a dense module."""
    if (directory / "1_Dense" / "model.safetensors").is_file():
        message = "the dense module of sentence-transformers is not converted for this family"
        raise UnsupportedError(directory / "1_Dense", Finding("M-008", message))
    keys = first_keys("lfm2", config)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("shortconv.l_cache", u32(config.integer("conv_L_cache")))
    keys.put("feed_forward_length", u32(wide(config)))
    if class_name(config) == "Lfm2BidirectionalModel":
        keys.put("attention.causal", boolean(False))
    is_embedding = class_name(config).endswith("Model")
    return keys.metadata | (pooling_metadata("lfm2", directory) if is_embedding else {})


def wide(config: Document) -> int:
    """Width of the network: as config.json says, or adjusted as it says. Raises InvalidError (M-003)."""
    n = config.integer(config.first(("block_ff_dim", "intermediate_size")) or "intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim", True):
        return n
    n = int(2 * n / 3)
    if config.value("block_ffn_dim_multiplier") is not None:
        n = int(config.number("block_ffn_dim_multiplier") * n)
    multiple = config.integer("block_multiple_of", 256)
    return multiple * ((n + multiple - 1) // multiple)


def metadata_moe(config: Document, directory: Path) -> Metadata:
    """The keys of a model of experts."""
    keys = first_keys("lfm2moe", config)
    keys.integer("expert_feed_forward_length", "moe_intermediate_size", minimum=1)
    keys.put("leading_dense_block_count", u32(config.integer("num_dense_layers", minimum=0)))
    keys.put("expert_gating_func", u32(2))
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("shortconv.l_cache", u32(config.integer("conv_L_cache")))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Blocks with one network each."""
    yield from ends(p)
    for i in range(p.n_layers):
        yield from operator(p, i)
        source, names = f"model.layers.{i}.feed_forward", ("w1", "w3", "w2")
        yield from decoder.feed_forward(p, i, source=source, names=names, bias=False)


def rules_moe(p: Parameters) -> Rules:
    """Blocks with experts, after some without."""
    yield from ends(p)
    for i in range(p.n_layers):
        yield from operator(p, i)
        source, names = f"model.layers.{i}.feed_forward", ("w1", "w3", "w2")
        if i < p.integer("leading_dense_block_count", 0):
            yield from decoder.feed_forward(p, i, source=source, names=names, bias=False)
            continue
        yield from decoder.router(p, i, source=f"{source}.gate")
        bias = (p.n_experts,)
        yield same(f"{source}.expert_bias", f"blk.{i}.exp_probs_b.bias", bias, required=False)
        yield from decoder.experts(p, i, source=f"{source}.experts", names=names)


def ends(p: Parameters) -> Rules:
    """Embeddings, which are the output matrix too, and the last norm, which is called one of embeddings."""
    yield same("model.embed_tokens.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield from decoder.norm(p, "model.embedding_norm", "token_embd_norm")
    yield same("lm_head.weight", "output.weight", (p.n_tokens, p.hidden), required=False)


def operator(p: Parameters, i: int) -> Rules:
    """The norms of a block, and attention, or a convolution where it has no key heads."""
    layer, block = f"model.layers.{i}", f"blk.{i}"
    yield from decoder.norm(p, f"{layer}.operator_norm", f"{block}.attn_norm")
    yield from decoder.norm(p, f"{layer}.ffn_norm", f"{block}.ffn_norm")
    if p.kv_heads(i):
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        yield from decoder.attention(p, i, names=names, qkv_bias=False, output_bias=False)
        for kind in "qk":
            source = f"{layer}.self_attn.{kind}_layernorm"
            yield from decoder.norm(p, source, f"{block}.attn_{kind}_norm", n=p.head_dim)
        return
    source, target = f"{layer}.conv", f"{block}.shortconv"
    yield from linear(f"{source}.in_proj", f"{target}.in_proj", 3 * p.hidden, p.hidden, bias=False)
    yield from linear(f"{source}.out_proj", f"{target}.out_proj", p.hidden, p.hidden, bias=False)
    n = p.integer("shortconv.l_cache")
    name = f"{target}.conv.weight"
    yield reshaped(f"{source}.conv.weight", name, (p.hidden, 1, n), (p.hidden, n))


ARCHITECTURES = (
    Architecture(
        name="lfm2",
        classes=("Lfm2ForCausalLM", "LFM2ForCausalLM", "Lfm2Model", "Lfm2BidirectionalModel"),
        metadata=metadata,
        rules=rules,
        tokenizer=bpe_metadata,
        required=(*DECODER_KEYS, "shortconv.l_cache"),
    ),
    Architecture(
        name="lfm2moe",
        classes=("Lfm2MoeForCausalLM",),
        metadata=metadata_moe,
        rules=rules_moe,
        tokenizer=bpe_metadata,
        required=(*DECODER_KEYS, "shortconv.l_cache", "expert_count"),
    ),
)
