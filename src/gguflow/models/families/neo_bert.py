"""NeoBERT: an encoder with rotary embeddings, norms of the root mean square, and SwiGLU."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.bert import classifier, classifier_name, encoder_keys
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import PoolingType
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder; its networks have two thirds of the width in config.json."""
    keys = encoder_keys("neo-bert", config, directory, activation=("SwiGLU", "swiglu", "silu"))
    keys.put("feed_forward_length", u32(int(2 * config.integer("intermediate_size") / 3)))
    keys.put("rope.freq_base", f32(10000.0))
    keys.text("rope.scaling.type", "none")
    keys.put("attention.layer_norm_rms_epsilon", f32(config.number("norm_eps", 1e-6)))
    keys.put("pooling_type", u32(PoolingType.CLS))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """An encoder without biases."""
    hidden, wide = p.hidden, p.wide()
    yield same("encoder.weight", "token_embd.weight", (p.n_tokens, hidden))
    yield from decoder.norm(p, "layer_norm", "enc.output_norm")
    yield from classifier(p, "dense")
    for i in range(p.n_layers):
        layer, block = f"transformer_encoder.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.attention_norm", f"{block}.attn_norm")
        yield from linear(f"{layer}.qkv", f"{block}.attn_qkv", 3 * hidden, hidden, bias=False)
        yield from linear(f"{layer}.wo", f"{block}.attn_output", hidden, hidden, bias=False)
        yield from decoder.norm(p, f"{layer}.ffn_norm", f"{block}.ffn_norm")
        yield from linear(f"{layer}.ffn.w12", f"{block}.ffn_up", 2 * wide, hidden, bias=False)
        yield from linear(f"{layer}.ffn.w3", f"{block}.ffn_down", hidden, wide, bias=False)


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, and name the classifier."""
    return classifier_name(name.removeprefix("model."), config)


ARCHITECTURE = Architecture(
    name="neo-bert",
    classes=("NeoBERT", "NeoBERTLMHead", "NeoBERTForSequenceClassification"),
    metadata=metadata,
    rules=rules,
    required=DECODER_KEYS,
    tokenizer=wordpiece_metadata,
    rename=rename,
    skipped=(r"decoder\..*", r"freqs_cis"),
)
