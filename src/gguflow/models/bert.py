"""BERT: MiniLM, bge and other encoders for sentence embeddings."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, boolean, f32, u32
from gguflow.models.architecture import MAX_LAYERS, Architecture, Expected
from gguflow.models.documents import Document
from gguflow.models.pooling import pooling_metadata
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata

_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_accurate", "gelu_pytorch_tanh")
"""The spellings and approximations of one function."""


def metadata(config: Document, directory: Path) -> Metadata:
    """The hyper-parameters' keys in the order of llama.cpp's converter."""
    config.require("hidden_act", _GELU, "M-009", "llama.cpp computes GELU in all models of this family")
    keys: Metadata = {
        "bert.block_count": u32(config.integer("num_hidden_layers", maximum=MAX_LAYERS)),
        "bert.context_length": u32(config.integer("max_position_embeddings")),
        "bert.embedding_length": u32(config.integer("hidden_size")),
        "bert.feed_forward_length": u32(config.integer("intermediate_size")),
        "bert.attention.head_count": u32(config.integer("num_attention_heads")),
        "bert.attention.layer_norm_epsilon": f32(config.number("layer_norm_eps", 1e-12)),
        "bert.attention.causal": boolean(False),
    }
    keys |= pooling_metadata("bert", directory)
    if labels := class_labels(config):
        keys["bert.classifier.output_labels"] = array(ValueType.STRING, labels)
    return keys


def class_labels(config: Document) -> list[str]:
    """The classes of a classifier, in order; none if they are only transformers' two default ones."""
    named = config.section("id2label")
    keys = sorted(named.values, key=lambda key: (len(key), key))
    labels = [named.text(key) for key in keys]
    return [] if len(labels) == 2 and labels[0] == "LABEL_0" else labels


def tensors(config: Document) -> dict[str, Expected]:
    """Shapes are [out, in]; every matrix has a bias."""
    hidden, wide = config.integer("hidden_size"), config.integer("intermediate_size")
    n_classes = len(config.section("id2label").values) or 2
    expected = {
        "token_embd.weight": Expected((config.integer("vocab_size"), hidden)),
        "position_embd.weight": Expected((config.integer("max_position_embeddings"), hidden)),
        "token_types.weight": Expected((config.integer("type_vocab_size", 2), hidden)),
        "token_embd_norm.weight": Expected((hidden,)),
        "token_embd_norm.bias": Expected((hidden,)),
    }
    for head in ("cls", "cls.output"):
        expected[f"{head}.weight"] = Expected((n_classes, hidden), required=False)
        expected[f"{head}.bias"] = Expected((n_classes,), required=False)
    for layer in range(config.integer("num_hidden_layers", maximum=MAX_LAYERS)):
        for name, n_out, n_in in (
            ("attn_q", hidden, hidden),
            ("attn_k", hidden, hidden),
            ("attn_v", hidden, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_up", wide, hidden),
            ("ffn_down", hidden, wide),
        ):
            expected[f"blk.{layer}.{name}.weight"] = Expected((n_out, n_in))
            expected[f"blk.{layer}.{name}.bias"] = Expected((n_out,))
        for norm in ("attn_output_norm", "layer_output_norm"):
            expected[f"blk.{layer}.{norm}.weight"] = Expected((hidden,))
            expected[f"blk.{layer}.{norm}.bias"] = Expected((hidden,))
    return expected


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, use the current names of norms, and name the classifier."""
    name = name.removeprefix("bert.")
    if name.endswith(".gamma"):
        name = name.removesuffix("gamma") + "weight"
    elif name.endswith(".beta"):
        name = name.removesuffix("beta") + "bias"
    if name in ("classifier.weight", "classifier.bias") and class_labels(config):
        name = name.replace("classifier.", "classifier.out_proj.")
    return name


ARCHITECTURE = Architecture(
    name="bert",
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    metadata=metadata,
    tensors=tensors,
    tokenizer=wordpiece_metadata,
    rename=rename,
    skipped=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"cls\.predictions.*",
        r"cls\.seq_relationship.*",
    ),
    originals=(
        *(
            f"embeddings.{name}"
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
        ),
        *(
            f"encoder.layer.{{i}}.attention.{name}"
            for name in ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
        ),
        *(
            f"encoder.layer.{{i}}.{name}"
            for name in ("intermediate.dense", "output.dense", "output.LayerNorm")
        ),
        *("classifier.dense", "classifier.out_proj"),
    ),
)
