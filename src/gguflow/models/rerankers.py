"""Qwen3's rerankers: of the output matrix, llama.cpp keeps the rows of "yes" and "no"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, string, u32
from gguflow.errors import Finding, InvalidError
from gguflow.models.architecture import Architecture, Rules, class_name
from gguflow.models.documents import Document, read_text
from gguflow.models.parameters import Parameters
from gguflow.models.pooling import PoolingType
from gguflow.models.rules import Given, Rule, picked
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.tokenizer_json import own_tokens

ANSWERS = ("yes", "no")
"""The tokens whose probabilities are compared, and the labels of the classes."""

HEAD = "cls.output.weight"

TEMPLATE = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""What a query and a document are put into, as in the card of these models."""

_NAMES = ("qwen3-reranker", "qwen3-vl-reranker")


def is_reranker(config: Document, directory: Path) -> bool:
    """Whether a checkpoint is a reranker, told as in llama.cpp's converter: by the name of its directory or
    its class, or by a heading of its card.

    config: config.json.
    directory: the checkpoint's.
    """
    hints = [directory.resolve().name, class_name(config)]
    hints += [config.text(key, "") for key in ("_name_or_path", "model_type")]
    card = (read_text(directory, "README.md") or "").lower()
    return (
        any(name in hint.lower() for hint in hints for name in _NAMES)
        or any(f"# {name}" in card for name in _NAMES)
        or "sequenceclassification" in class_name(config).lower()
    )


def reranker(family: Architecture, config: Document, directory: Path) -> Architecture:
    """The family, or what it is for a reranker.

    family: of decoders.
    config: config.json.
    directory: the checkpoint's.

    Raises InvalidError (M-023: no tokenizer; M-003: one without the answers), and what Document.read raises.
    """
    if not is_reranker(config, directory):
        return family
    answers = _answers(config, directory)

    def metadata(config: Document, directory: Path) -> Metadata:
        return family.metadata(config, directory) | {
            f"{family.name}.pooling_type": u32(PoolingType.RANK),
            f"{family.name}.classifier.output_labels": array(ValueType.STRING, list(ANSWERS)),
        }

    def tokenizer(files: TokenizerFiles) -> Metadata:
        keys = family.tokenizer(files)
        keys.setdefault("tokenizer.chat_templates", array(ValueType.STRING, ["rerank"]))
        return keys | {"tokenizer.chat_template.rerank": string(TEMPLATE)}

    return replace(
        family, metadata=metadata, rules=_with_head(family.rules, answers), tokenizer=tokenizer, choose=None
    )


def head_of_file(p: Parameters) -> Iterator[Given]:
    """The rows of the answers in a finished file of a reranker.

    p: hyper-parameters.
    """
    if p.config is None and p.integer("pooling_type", 0) == PoolingType.RANK:
        yield Given(HEAD, (len(ANSWERS), p.hidden), is_required=True)


def _with_head(
    rules: Callable[[Parameters], Rules], answers: tuple[int, ...]
) -> Callable[[Parameters], Rules]:
    """Rules with the rows of the answers in the place of the output matrix; where that is tied to the
    embeddings, they are rows of these.
    """

    def changed(p: Parameters) -> Rules:
        tied = p.is_tied
        place = 0 if tied else 1
        for rule in rules(p):
            names = ("token_embd.weight", "output.weight")
            if not isinstance(rule, Rule) or rule.targets[0].name != names[place]:
                yield rule
                continue
            source = rule.sources[0].name
            yield picked(source, HEAD, answers, p.n_tokens, p.hidden, whole=names[0] if tied else None)

    return changed


def _answers(config: Document, directory: Path) -> tuple[int, ...]:
    """The ids of the answers. Raises InvalidError (M-003, M-023)."""
    tokenizer = Document.read(directory, "tokenizer.json")
    if tokenizer is None:
        raise no_tokenizer(directory, "tokenizer.json")
    ids = {text: token for token, text in own_tokens(tokenizer, config.integer("vocab_size")).items()}
    for entry in tokenizer.sections("added_tokens"):
        ids.setdefault(entry.text("content"), entry.integer("id", minimum=0))
    if missing := [text for text in ANSWERS if text not in ids]:
        message = "a reranker compares the probabilities of two tokens, which the vocabulary does not have"
        raise InvalidError(tokenizer.file, Finding("M-003", message, "$.model.vocab", expected=missing))
    return tuple(ids[text] for text in ANSWERS)
