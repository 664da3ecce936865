"""ModernBERT: an encoder with rotary embeddings, windows in most layers, and gated feed-forward networks."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, f32, string, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules, class_name
from gguflow.models.documents import Document
from gguflow.models.families.bert import class_labels, encoder_keys, n_labels
from gguflow.models.keys import GELU, SILU
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.variants import modern_bert_metadata

ROPE = RopeOptions(separate=True)


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder, then those of windows; a classifier always has its classes.

    llama.cpp does not load a file without the epsilon of norms with a mean.
    """
    keys = encoder_keys("modern-bert", config, directory, activation=(*GELU, *SILU), rope=ROPE)
    epsilon = config.number("layer_norm_eps", config.number("norm_eps", 1e-5))
    if "layer_norm_eps" not in config:
        config.applied.add("modern-bert-epsilon")
    keys.put("attention.layer_norm_epsilon", f32(epsilon))
    if class_name(config).endswith("Classification") and not class_labels(config):
        keys.put("classifier.output_labels", array(ValueType.STRING, ["LABEL_0", "LABEL_1"]))
    keys.integer("attention.sliding_window", "local_attention")
    keys.integer("attention.sliding_window_pattern", "global_attn_every_n_layers", minimum=1)
    keys.text("rope.scaling.type", "none")
    keys.put("vocab_size", u32(config.integer("vocab_size")))
    keys.put("hidden_activation", string(config.text("hidden_activation", "gelu")))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """An encoder without biases; the first layer has no norm before its attention."""
    hidden, wide = p.hidden, p.wide()
    yield same("embeddings.tok_embeddings.weight", "token_embd.weight", (p.n_tokens, hidden))
    yield from decoder.norm(p, "embeddings.norm", "token_embd_norm")
    yield from decoder.norm(p, "final_norm", "output_norm")
    for i in range(p.n_layers):
        layer, block = f"layers.{i}", f"blk.{i}"
        yield same(f"{layer}.attn_norm.weight", f"{block}.attn_norm.weight", (hidden,), required=i > 0)
        yield from linear(f"{layer}.attn.Wqkv", f"{block}.attn_qkv", 3 * hidden, hidden, bias=False)
        yield from linear(f"{layer}.attn.Wo", f"{block}.attn_output", hidden, hidden, bias=False)
        yield from decoder.norm(p, f"{layer}.mlp_norm", f"{block}.ffn_norm")
        yield from linear(f"{layer}.mlp.Wi", f"{block}.ffn_up", 2 * wide, hidden, bias=False)
        yield from linear(f"{layer}.mlp.Wo", f"{block}.ffn_down", hidden, wide, bias=False)
    yield from linear("head.dense", "cls", hidden, hidden, bias=False, required=False)
    yield same("head.norm.weight", "cls.norm.weight", (hidden,), required=False)
    yield from linear("classifier", "cls.output", n_labels(p), hidden, required=False)


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head."""
    return name.removeprefix("model.")


ARCHITECTURE = Architecture(
    name="modern-bert",
    classes=("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
    metadata=metadata,
    rules=rules,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
    tokenizer=modern_bert_metadata,
    rename=rename,
    skipped=(r"decoder\.(weight|bias)",),
)
