"""BERT: MiniLM, bge and other encoders for sentence embeddings."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import INTEGERS, Metadata, ValueType, array, boolean, f32, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GELU
from gguflow.models.parameters import MAX_LAYERS, Parameters
from gguflow.models.pooling import pooling_metadata
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The hyper-parameters' keys in the order of llama.cpp's converter."""
    config.require("hidden_act", GELU, "M-009", "llama.cpp computes GELU in all models of this family")
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


def rules(p: Parameters) -> Rules:
    """An encoder; every matrix has a bias."""
    hidden, wide = p.hidden, p.wide()
    yield same("embeddings.word_embeddings.weight", "token_embd.weight", (p.n_tokens, hidden))
    n_positions = p.integer("context_length")
    yield same("embeddings.position_embeddings.weight", "position_embd.weight", (n_positions, hidden))
    yield same("embeddings.token_type_embeddings.weight", "token_types.weight", (_n_types(p), hidden))
    yield from decoder.norm(p, "embeddings.LayerNorm", "token_embd_norm", bias=True)
    n_classes = n_labels(p)
    for source in ("classifier", "classifier.dense"):
        yield from linear(source, "cls", n_classes, hidden, required=False)
    yield from linear("classifier.out_proj", "cls.output", n_classes, hidden, required=False)
    for i in range(p.n_layers):
        layer, block = f"encoder.layer.{i}", f"blk.{i}"
        for source, target, n_out, n_in in (
            ("attention.self.query", "attn_q", hidden, hidden),
            ("attention.self.key", "attn_k", hidden, hidden),
            ("attention.self.value", "attn_v", hidden, hidden),
            ("attention.output.dense", "attn_output", hidden, hidden),
            ("intermediate.dense", "ffn_up", wide, hidden),
            ("output.dense", "ffn_down", hidden, wide),
        ):
            yield from linear(f"{layer}.{source}", f"{block}.{target}", n_out, n_in, bias=True)
        yield from decoder.norm(
            p, f"{layer}.attention.output.LayerNorm", f"{block}.attn_output_norm", bias=True
        )
        yield from decoder.norm(p, f"{layer}.output.LayerNorm", f"{block}.layer_output_norm", bias=True)


def n_labels(p: Parameters) -> int:
    """Number of classes of a classifier."""
    if p.config is not None:
        return len(p.config.section("id2label").values) or 2
    found = p.metadata.get(f"{p.architecture}.classifier.output_labels")
    return len(found.value) if found is not None and found.type is ValueType.ARRAY else 1


def _n_types(p: Parameters) -> int:
    """Kinds of segments: as config.json says, or as the file with its vocabulary does."""
    if p.config is not None:
        return p.config.integer("type_vocab_size", 2)
    found = p.metadata.get("tokenizer.ggml.token_type_count")
    return int(found.value) if found is not None and found.type in INTEGERS else 2


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
    rules=rules,
    required=(*DECODER_KEYS[:-1], "attention.layer_norm_epsilon"),
    tokenizer=wordpiece_metadata,
    rename=rename,
    skipped=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"cls\.predictions.*",
        r"cls\.seq_relationship.*",
    ),
)
