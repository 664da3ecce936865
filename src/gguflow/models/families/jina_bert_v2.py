"""Jina's embeddings v2: BERT with ALiBi instead of positions, and gated feed-forward networks."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.bert import (
    ENCODER_KEYS,
    HEADS_OF_TRAINING,
    attention,
    embeddings,
    encoder_keys,
    with_norm_names,
)
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.unigram import jina_v2_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder. Raises UnsupportedError (M-009) for positions that are not ALiBi."""
    message = "llama.cpp has attention with linear biases in all models of this family"
    config.require("position_embedding_type", ("alibi",), "M-009", message)
    return encoder_keys("jina-bert-v2", config, directory).metadata


def rules(p: Parameters) -> Rules:
    """An encoder; names of the code model differ, and some have norms of queries and keys."""
    hidden, wide = p.hidden, p.wide()
    yield from embeddings(p)
    for i in range(p.n_layers):
        layer, block = f"encoder.layer.{i}", f"blk.{i}"
        yield from attention(p, i)
        for source, target in (
            ("attention.self.layer_norm_q", "attn_q_norm"),
            ("attention.self.layer_norm_k", "attn_k_norm"),
            ("layer_norm_1", "attn_norm_2"),
        ):
            yield from optional_norm(p, f"{layer}.{source}", f"{block}.{target}")
        for up, n in (("gated_layers", 2 * wide), ("up_gated_layer", 2 * wide)):
            yield from linear(f"{layer}.mlp.{up}", f"{block}.ffn_up", n, hidden, bias=None)
        yield from linear(f"{layer}.intermediate.dense", f"{block}.ffn_up", wide, hidden, bias=None)
        for down in ("mlp.wo", "mlp.down_layer", "output.dense"):
            yield from linear(f"{layer}.{down}", f"{block}.ffn_down", hidden, wide, bias=None)
        for source in ("mlp.layernorm", "layer_norm_2", "output.LayerNorm"):
            yield from decoder.norm(p, f"{layer}.{source}", f"{block}.layer_output_norm", bias=True)


def optional_norm(p: Parameters, source: str, target: str) -> Rules:
    """A norm with a bias that not all models have.

    p: hyper-parameters.
    source: in the checkpoint, without .weight.
    target: in GGUF, without .weight.
    """
    for kind in ("weight", "bias"):
        yield same(f"{source}.{kind}", f"{target}.{kind}", (p.hidden,), required=False)


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, and use the current names of norms."""
    return with_norm_names(name.removeprefix("bert."))


ARCHITECTURE = Architecture(
    name="jina-bert-v2",
    classes=("JinaBertModel", "JinaBertForMaskedLM"),
    metadata=metadata,
    rules=rules,
    required=ENCODER_KEYS,
    tokenizer=jina_v2_metadata,
    rename=rename,
    skipped=HEADS_OF_TRAINING,
)
