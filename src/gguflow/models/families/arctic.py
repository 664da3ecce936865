"""Snowflake Arctic: a dense network beside the experts of every layer."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, u32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys, hidden_size, n_heads
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.tokenizer_json import token_text
from gguflow.models.tokenizers.variants import only_sentencepiece_metadata
from gguflow.models.tokenizers.vocabulary import TokenType


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, the size of the vocabulary, and that whole heads rotate."""
    keys = base_keys("arctic", config)
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("rope.dimension_count", u32(hidden_size(config) // n_heads(config)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Rows of Q and K in the order of llama.cpp's "norm" rope; the dense network is as wide as the stream."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        for source, target in (
            ("input_layernorm", "attn_norm"),
            ("residual_layernorm", "ffn_norm"),
            ("post_attention_layernorm", "ffn_norm_exps"),
        ):
            yield from decoder.norm(p, f"{layer}.{source}", f"{block}.{target}")
        yield from decoder.attention(p, i, rotate=True, qkv_bias=False, output_bias=False)
        for name, kind in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            yield from linear(
                f"{layer}.residual_mlp.{name}", f"{block}.ffn_{kind}", p.hidden, p.hidden, bias=False
            )
        yield from decoder.router(p, i, source=f"{layer}.block_sparse_moe.gate")
        names = ("w1", "w3", "w2")
        yield from decoder.experts(p, i, source=f"{layer}.block_sparse_moe.experts", names=names)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.model; tokens that tokenizer_config.json names take the place of its last ones."""
    keys = only_sentencepiece_metadata(files)
    if files.settings is None:
        return keys
    texts, scores, types = (
        list(keys[f"tokenizer.ggml.{name}"].value) for name in ("tokens", "scores", "token_type")
    )
    unknown = token_text(files.settings.values.get("unk_token"))
    decoder_tokens = files.settings.section("added_tokens_decoder")
    for name in decoder_tokens.values:
        added = decoder_tokens.section(name)
        token = int(name) if name.isdecimal() and len(name) < 10 else len(types)
        if token >= len(types):
            continue
        is_special = added.flag("special", False)
        texts[token] = added.text("content")
        scores[token] = 0.0 if is_special else -10000.0
        is_unknown = is_special and added.text("content") == unknown
        special = TokenType.UNKNOWN if is_unknown else TokenType.CONTROL
        types[token] = int(special if is_special else TokenType.USER_DEFINED)
    keys["tokenizer.ggml.tokens"] = array(ValueType.STRING, texts)
    keys["tokenizer.ggml.scores"] = array(ValueType.FLOAT32, scores)
    keys["tokenizer.ggml.token_type"] = array(ValueType.INT32, types)
    return keys


ARCHITECTURE = Architecture(
    name="arctic",
    classes=("ArcticForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
)
