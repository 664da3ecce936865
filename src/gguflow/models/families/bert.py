"""BERT: MiniLM, bge and other encoders for sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gguflow.container.metadata import INTEGERS, Metadata, ValueType, array, boolean
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import GELU, Keys, base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import classifier_pooling, pooling_metadata
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The hyper-parameters' keys in the order of llama.cpp's converter."""
    return encoder_keys("bert", config, directory).metadata


def encoder_keys(
    name: str, config: Document, directory: Path, *, activation: Sequence[str] | None = GELU,
    rope: RopeOptions | None = None,
) -> Keys:  # fmt: skip
    """The base keys of an encoder, that it looks both ways, how it pools, and the classes of a classifier.

    name: `general.architecture`.
    config: config.json.
    directory: the checkpoint's.
    activation: as of `base_keys`.
    rope: as of `base_keys`; None for an encoder without rotary embeddings.

    Raises what `base_keys` and the pooling raise.
    """
    keys = base_keys(name, config, activation=activation, rope=rope)
    keys.put("attention.causal", boolean(False))
    keys.metadata |= pooling_metadata(name, directory)
    keys.metadata |= classifier_pooling(name, config)
    if labels := class_labels(config):
        keys.put("classifier.output_labels", array(ValueType.STRING, labels))
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
    n_positions = p.integer("context_length")
    yield same("embeddings.position_embeddings.weight", "position_embd.weight", (n_positions, hidden))
    yield from embeddings(p)
    yield from classifier(p)
    for i in range(p.n_layers):
        layer, block = f"encoder.layer.{i}", f"blk.{i}"
        yield from attention(p, i)
        for source, target, n_out, n_in in (
            ("intermediate.dense", "ffn_up", wide, hidden),
            ("output.dense", "ffn_down", hidden, wide),
        ):
            yield from linear(f"{layer}.{source}", f"{block}.{target}", n_out, n_in, bias=True)
        yield from decoder.norm(p, f"{layer}.output.LayerNorm", f"{block}.layer_output_norm", bias=True)


def embeddings(p: Parameters, norm: str = "embeddings.LayerNorm") -> Rules:
    """Embeddings of tokens and of kinds of segments, and their norm.

    p: hyper-parameters. A file without kinds of segments is one of DistilBERT.
    norm: name of their norm in the checkpoint.
    """
    yield same("embeddings.word_embeddings.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    has_types = p.config is not None
    shape = (_n_types(p), p.hidden)
    yield same("embeddings.token_type_embeddings.weight", "token_types.weight", shape, required=has_types)
    yield from decoder.norm(p, norm, "token_embd_norm", bias=True)


def attention(p: Parameters, i: int, layer: str = "encoder.layer.{i}") -> Rules:
    """Attention of one layer, and the norm after it.

    p: hyper-parameters.
    i: number of the layer.
    layer: what names of layers begin with in the checkpoint; {i} is the layer.
    """
    layer, block = layer.replace("{i}", str(i)), f"blk.{i}"
    for source, target in (
        ("self.query", "attn_q"),
        ("self.key", "attn_k"),
        ("self.value", "attn_v"),
        ("output.dense", "attn_output"),
    ):
        yield from linear(f"{layer}.attention.{source}", f"{block}.{target}", p.hidden, p.hidden, bias=True)
    yield from decoder.norm(p, f"{layer}.attention.output.LayerNorm", f"{block}.attn_output_norm", bias=True)


def classifier(p: Parameters, dense: str = "classifier.dense") -> Rules:
    """A classifier of one layer or of two.

    p: hyper-parameters.
    dense: name of the first layer of two in the checkpoint.
    """
    n_classes = n_labels(p)
    yield from linear("classifier", "cls", n_classes, p.hidden, required=False)
    yield from linear(dense, "cls", p.hidden, p.hidden, required=False)
    yield from linear("classifier.out_proj", "cls.output", n_classes, p.hidden, required=False)


def n_labels(p: Parameters) -> int:
    """Number of classes of a classifier."""
    if p.config is not None:
        return len(p.config.section("id2label").values) or 2
    found = p.metadata.get(f"{p.architecture}.classifier.output_labels")
    return len(found.value) if found is not None and found.type is ValueType.ARRAY else 1


def _n_types(p: Parameters) -> int:
    """Kinds of segments: as config.json says, or as the file with its vocabulary does."""
    if p.config is not None:
        return p.config.integer("type_vocab_size", 1)
    found = p.metadata.get("tokenizer.ggml.token_type_count")
    return int(found.value) if found is not None and found.type in INTEGERS else 2


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, use the current names of norms, and name the classifier."""
    name = name.removeprefix("bert.")
    return classifier_name(with_norm_names(name), config)


def with_norm_names(name: str) -> str:
    """The name of a tensor, with the current name of a norm's parameter.

    name: in the checkpoint.
    """
    if name.endswith(".gamma"):
        name = name.removesuffix("gamma") + "weight"
    elif name.endswith(".beta"):
        name = name.removesuffix("beta") + "bias"
    return name


def classifier_name(name: str, config: Document) -> str:
    """The name of a classifier of one layer, which has another place if its classes are named.

    name: in the checkpoint.
    config: config.json.
    """
    if name in ("classifier.weight", "classifier.bias") and class_labels(config):
        name = name.replace("classifier.", "classifier.out_proj.")
    return name


ENCODER_KEYS = (*DECODER_KEYS[:-1], "attention.layer_norm_epsilon")
"""The keys that nearly all encoders have."""

HEADS_OF_TRAINING = (
    r"embeddings\.position_ids",
    r"pooler\.dense\.(weight|bias)",
    r"cls\.predictions.*",
    r"cls\.seq_relationship.*",
)
"""What encoders have for their training, and constants."""

ARCHITECTURE = Architecture(
    name="bert",
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    metadata=metadata,
    rules=rules,
    required=ENCODER_KEYS,
    tokenizer=wordpiece_metadata,
    rename=rename,
    skipped=HEADS_OF_TRAINING,
)
