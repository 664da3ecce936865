"""RoBERTa: BERT with byte-level BPE, and positions that begin behind the padding token's id."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import INTEGERS, Metadata, u32
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
from gguflow.models.rules import Part, Rule
from gguflow.models.tokenizers.unigram import roberta_metadata
from gguflow.models.views import Constant, part_of, stacked

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
    for rule in bert_rules(p):
        if isinstance(rule, Rule) and rule.targets[0].name == POSITIONS:
            yield _positions(p, rule.sources[0].name)
        else:
            yield rule


def _positions(p: Parameters, source: str) -> Rule:
    """The rows of tokens; those before them, which no text uses, are zeros on the way back."""
    if p.config is not None:
        first = first_position(p.config)
    else:
        padding = p.metadata.get("tokenizer.ggml.padding_token_id")
        first = (int(padding.value) if padding is not None and padding.type in INTEGERS else 1) + 1
    n, hidden = p.integer("context_length"), p.hidden
    whole, kept = (first + n, hidden), (n, hidden)
    return Rule(
        (Part(source, whole),),
        (Part(POSITIONS, kept),),
        lambda views: (part_of(views[0], first, first + n, kept),),
        lambda views: (stacked((Constant((first, hidden), views[0].format), views[0]), whole),),
    )


def rename(name: str, config: Document) -> str:
    """Remove the prefix of models with a head, and name the classifier."""
    return classifier_name(with_norm_names(name.removeprefix("roberta.")), config)


ARCHITECTURE = Architecture(
    name="bert",
    classes=("RobertaModel", "RobertaForSequenceClassification"),
    metadata=metadata,
    rules=rules,
    required=ENCODER_KEYS,
    tokenizer=roberta_metadata,
    rename=rename,
    skipped=HEADS_OF_TRAINING,
    is_main=False,
)
