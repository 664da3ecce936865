"""Which tokens end a text: those that config.json and generation_config.json name, in the keys there are.

GGUF has one key for the end of a text, one for the end of a turn and one for the end of a message, and
llama.cpp knows some tokens by their text. What a checkpoint names beyond that would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gguflow.container.metadata import Metadata, Value, ValueType, array, integer_under, u32
from gguflow.errors import Finding, InvalidError, warn
from gguflow.models.documents import Document

ALL_ENDS_KEY = "gguflow.tokenizer.eos_token_ids"
"""All tokens that end a text, where the other keys do not have room for them: array of u32."""

EOS_KEY = "tokenizer.ggml.eos_token_id"
FREE_KEYS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")

ENDING_TEXTS = frozenset(
    (
        *("</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "[e~[", "<turn|>", "<end_of_turn>"),
        *("<end_of_utterance>", "<｜end▁of▁sentence｜>", "<|tool_response>", "<|ifm|im_end|>"),  # noqa: RUF001
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>"),
        *("<|flush|>", "<|endoftext|>", "<|end_of_text|>"),
    )
)
"""Tokens that end a text because of their name: llama.cpp's list."""

INFILLING_TEXTS = (
    frozenset(("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")),
    frozenset(("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    frozenset(("<|file_sep|>", "<|plamo:file_separator|>")),
)
"""So do these, but of each group llama.cpp takes one, and which is not defined."""

_NOT_ENDING = (
    ("<|end|>", frozenset(("<|return|>", "<|call|>"))),
    ("<|end|>", frozenset(("<|return|>", "<|calls|>"))),
    ("<|end|>", frozenset(("<|flush|>", "<|call|>"))),
    ("<|end|>", frozenset(("<|flush|>", "<|calls|>"))),
    ("</s>", frozenset(("<|tool_response>",))),
)
"""A text that does not end anything in a vocabulary that has all of the others."""

_SHOWN_TOKENS = 8


def exempt_texts(texts: Mapping[str, int]) -> set[str]:
    """The texts that do not end a text although they are in llama.cpp's list, whatever a key says.

    texts: the vocabulary.
    """
    return {text for text, others in _NOT_ENDING if text in texts and others <= texts.keys()}


def ending_texts(texts: Mapping[str, int]) -> list[str]:
    """The tokens that llama.cpp takes for ends because of their text, or may take (infilling).

    texts: the vocabulary.
    """
    listed = [*sorted(ENDING_TEXTS), *(text for group in INFILLING_TEXTS for text in sorted(group))]
    exempt = exempt_texts(texts)
    return [text for text in listed if text in texts and text not in exempt]


def _certain(texts: Mapping[str, int]) -> set[int]:
    """The tokens that are ends by their text, of infilling groups only where there is no choice."""
    certain = set(ENDING_TEXTS & texts.keys()) - exempt_texts(texts)
    for group in INFILLING_TEXTS:
        if len(found := group & texts.keys()) == 1:
            certain |= found
    return {texts[text] for text in certain}


def with_ends(
    metadata: Metadata, config: Document, generation: Document | None, *, generates: bool
) -> Metadata:
    """The keys of a tokenizer with all ends of a text that the checkpoint names.

    The first id is the end of a text, unless the tokenizer's files name one. A further one needs no key if
    its text is known to llama.cpp; otherwise it gets that of the end of a turn or message, if that is free.
    If keys do not suffice, all ids are kept under our own key, and there is a warning (M-050).

    metadata: of the tokenizer.
    config: config.json.
    generation: generation_config.json, None if there is none.
    generates: whether the model generates text; if it has no end, there is a warning (M-051).

    Raises InvalidError (M-003) for ids in config.json that are none; in generation_config.json they are only
    warned about (M-042).
    """
    named = dict.fromkeys((*_ids(config), *_ids_of_generation(generation)))
    tokens = metadata["tokenizer.ggml.tokens"].value
    beyond = [token for token in named if token >= len(tokens)]
    wanted = [token for token in named if token < len(tokens)]
    if beyond:
        message = "tokens that end a text, and that the vocabulary does not have, are left out"
        _warn(config, message, beyond, f"below {len(tokens)}")
    keys: Metadata = {}
    first = integer_under(metadata, EOS_KEY)
    if first is None and wanted:
        first = wanted[0]
        keys[EOS_KEY] = u32(first)
    if generates and first is None:
        _warn_of_no_end(metadata, config)
    texts = {text: token for token, text in enumerate(tokens)}
    known = _certain(texts) | {first} - {texts[text] for text in exempt_texts(texts)}
    known |= {token for key in FREE_KEYS if (token := integer_under(metadata, key)) is not None}
    free = [key for key in FREE_KEYS if key not in metadata]
    left: list[int] = []
    for token in dict.fromkeys(([first] if first is not None else []) + wanted):
        if token in known:
            continue
        if free and tokens[token] not in exempt_texts(texts):
            keys[free.pop(0)] = u32(token)
        else:
            left.append(token)
    if keys:
        config.applied.add("ends-of-text")
    if left:
        ends = list(dict.fromkeys(([first] if first is not None else []) + wanted))
        keys[ALL_ENDS_KEY] = array(ValueType.UINT32, ends)
        message = (
            f"llama.cpp has no key for so many tokens that end a text, and will not stop at these; "
            f"they are kept in {ALL_ENDS_KEY}"
        )
        _warn(config, message, [f"{token} {tokens[token]!r}" for token in left[:_SHOWN_TOKENS]], None)
    return _in_place(metadata, keys)


def _ids(document: Document) -> Iterable[int]:
    """The ids under `eos_token_id`: one or a list; -1 stands for none. Raises InvalidError (M-003)."""
    key = "eos_token_id"
    value = document.values.get(key)
    if value is None:
        return
    values = value if isinstance(value, list) else [value]
    for index, token in enumerate(values):
        if not isinstance(token, int) or isinstance(token, bool) or token < -1:
            place = index if isinstance(value, list) else None
            raise document.wrong(key, token, "a token id, or a list of them", place)
        if token != -1:
            yield token


def _ids_of_generation(generation: Document | None) -> tuple[int, ...]:
    """The same, from generation_config.json; what is wrong with it never stops a conversion (M-042)."""
    try:
        return tuple(_ids(generation)) if generation is not None else ()
    except InvalidError as error:
        warn(error.file, replace(error.finding, rule="M-042"))
        return ()


def _warn_of_no_end(metadata: Metadata, config: Document) -> None:
    """Warn that llama.cpp takes an end of its own, unless that is one."""
    default = 2 if metadata["tokenizer.ggml.model"].value == "llama" else 11
    tokens = metadata["tokenizer.ggml.tokens"].value
    text = tokens[default] if default < len(tokens) else None
    if text not in ENDING_TEXTS:
        message = (
            f"no file names the token that ends a text; llama.cpp will stop at token {default}, {text!r}"
        )
        finding = Finding("M-051", message, config.at("eos_token_id"), expected="a token id")
        warn(config.file, finding)


def _warn(config: Document, message: str, found: list[int] | list[str], expected: str | None) -> None:
    shown = found[:_SHOWN_TOKENS]
    finding = Finding("M-050", message, config.at("eos_token_id"), found=shown, expected=expected)
    warn(config.file, finding)


def _in_place(metadata: Metadata, keys: Mapping[str, Value]) -> Metadata:
    """The metadata with the keys behind the last special token's id, or at the end."""
    if not keys:
        return metadata
    ids = [key for key in metadata if key.endswith("_token_id")]
    at = list(metadata).index(ids[-1]) + 1 if ids else len(metadata)
    items = list(metadata.items())
    return dict([*items[:at], *keys.items(), *items[at:]])
