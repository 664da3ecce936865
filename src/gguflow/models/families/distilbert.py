"""DistilBERT: BERT with other names, and without kinds of segments."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, f32
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.bert import ENCODER_KEYS, classifier, classifier_name, encoder_keys
from gguflow.models.keys import GELU
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """BERT's keys; the epsilon is a constant of the class."""
    message = "llama.cpp computes GELU in all models of this family"
    config.require("activation", GELU, "M-009", message)
    epsilon: Metadata = {"bert.attention.layer_norm_epsilon": f32(1e-12)}
    return epsilon | encoder_keys("bert", config, directory).metadata


def rules(p: Parameters) -> Rules:
    """An encoder; every matrix has a bias."""
    hidden, wide = p.hidden, p.wide()
    n_positions = p.integer("context_length")
    yield same("embeddings.word_embeddings.weight", "token_embd.weight", (p.n_tokens, hidden))
    yield same("embeddings.position_embeddings.weight", "position_embd.weight", (n_positions, hidden))
    yield from decoder.norm(p, "embeddings.LayerNorm", "token_embd_norm", bias=True)
    yield from classifier(p, "pre_classifier")
    for i in range(p.n_layers):
        layer, block = f"transformer.layer.{i}", f"blk.{i}"
        for source, target, n_out, n_in in (
            ("attention.q_lin", "attn_q", hidden, hidden),
            ("attention.k_lin", "attn_k", hidden, hidden),
            ("attention.v_lin", "attn_v", hidden, hidden),
            ("attention.out_lin", "attn_output", hidden, hidden),
            ("ffn.lin1", "ffn_up", wide, hidden),
            ("ffn.lin2", "ffn_down", hidden, wide),
        ):
            yield from linear(f"{layer}.{source}", f"{block}.{target}", n_out, n_in, bias=True)
        yield from decoder.norm(p, f"{layer}.sa_layer_norm", f"{block}.attn_output_norm", bias=True)
        yield from decoder.norm(p, f"{layer}.output_layer_norm", f"{block}.layer_output_norm", bias=True)


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, and name the classifier."""
    return classifier_name(name.removeprefix("distilbert."), config)


ARCHITECTURE = Architecture(
    name="bert",
    classes=("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
    metadata=metadata,
    rules=rules,
    required=ENCODER_KEYS,
    tokenizer=wordpiece_metadata,
    rename=rename,
    skipped=(r"vocab_.*", r"embeddings\.position_ids"),
    is_main=False,
)
