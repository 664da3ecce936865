"""RoBERTa: BERT with byte-level BPE, and positions that begin behind the padding token's id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.metadata import Metadata, u32
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.bert import (
    ENCODER_KEYS,
    HEADS_OF_TRAINING,
    classifier_name,
    encoder_keys,
    with_norm_names,
)
from gguflow.models.families.bert import rules as bert_rules
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Given, Rule, sliced
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata

POSITIONS = "position_embd.weight"


def metadata(config: Document, directory: Path) -> Metadata:
    """BERT's keys; the context is shorter by the positions before the first token's."""
    return shortened("bert", config, directory)


def shortened(name: str, config: Document, directory: Path) -> Metadata:
    """The keys of an encoder, whose context is shorter by the positions before the first token's.

    name: `general.architecture`.
    config: config.json.
    directory: the checkpoint's.

    Raises InvalidError (M-003) if there are no others, and what `encoder_keys` raises.
    """
    keys = encoder_keys(name, config, directory)
    n, first = config.integer("max_position_embeddings"), first_position(config)
    if n <= first:
        raise config.wrong("max_position_embeddings", n, f"more than {first}")
    keys.put("context_length", u32(n - first))
    return keys.metadata


def first_position(config: Document) -> int:
    """The position of the first token of a text: one behind the id of the padding token.

    config: config.json.
    """
    return config.integer("pad_token_id", 1, minimum=0) + 1


def rules(p: Parameters) -> Rules:
    """BERT's, with the positions of tokens alone."""
    return without_padding(p, bert_rules(p))


def without_padding(p: Parameters, rules: Rules) -> Iterator[Rule | Given]:
    """The rules of a checkpoint that has positions before the first token's.

    p: hyper-parameters.
    rules: those of a checkpoint that has none.
    """
    for rule in rules:
        if p.config is not None and isinstance(rule, Rule) and rule.targets[0].name == POSITIONS:
            n, first = p.config.integer("max_position_embeddings"), first_position(p.config)
            yield sliced(rule.sources[0].name, POSITIONS, n, first, n, (p.hidden,))
        else:
            yield rule


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, and name the classifier."""
    return classifier_name(with_norm_names(name.removeprefix("roberta.")), config)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.json; without it WordPiece."""
    if files.tokenizer is None:
        return wordpiece_metadata(files)
    count: Metadata = {"tokenizer.ggml.token_type_count": u32(files.config.integer("type_vocab_size", 1))}
    return bpe_metadata(files) | count


ARCHITECTURE = Architecture(
    name="bert",
    classes=("RobertaModel", "RobertaForSequenceClassification"),
    metadata=metadata,
    rules=rules,
    required=ENCODER_KEYS,
    tokenizer=tokenizer,
    rename=rename,
    skipped=HEADS_OF_TRAINING,
    is_main=False,
)
