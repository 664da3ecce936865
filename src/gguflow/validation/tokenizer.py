"""Rules about the tokenizer's keys, G-010 to G-016: parallel arrays and indices into them (cf. CVEs)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from gguflow.container.metadata import INTEGERS, ValueType
from gguflow.container.strings import StringArray
from gguflow.errors import Finding
from gguflow.models.tokenizers.ends import ALL_ENDS_KEY
from gguflow.validation.model import Facts

TOKENS = "tokenizer.ggml.tokens"
MODEL = "tokenizer.ggml.model"

_WITHOUT_VOCABULARY = {"none", "no_vocab"}
_ELEMENTS = {
    TOKENS: (ValueType.STRING,),
    "tokenizer.ggml.scores": (ValueType.FLOAT32,),
    "tokenizer.ggml.token_type": (ValueType.INT32, ValueType.UINT32),
    "tokenizer.ggml.merges": (ValueType.STRING,),
}
"""The arrays, and the element types that readers accept."""
_PARALLEL = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_BYTE = 6
"""The token type of a token for one byte, written <0xNN>."""
_DEFAULT_IDS = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {"bos": 11, "eos": 11}}
"""llama.cpp's default special tokens by tokenizer.ggml.model (llama_vocab::impl::load)."""


def judge_tokenizer(facts: Facts, *, strict: bool) -> Iterator[Finding]:
    """Findings about the tokenizer; if `strict`, also about duplicate tokens."""
    model = facts.metadata.get(MODEL)
    if model is not None and model.type is not ValueType.STRING:
        yield facts.about_key("G-010", f"{MODEL} is not a string", MODEL, model.type.name, "STRING")
    elif model is not None and model.value not in _WITHOUT_VOCABULARY and TOKENS not in facts.metadata:
        yield facts.about_key("G-010", f"{TOKENS} is missing, and {MODEL} names a tokenizer", TOKENS)
    yield from _judge_arrays(facts)
    tokens = facts.array(TOKENS)
    if tokens is None or tokens.element_type is not ValueType.STRING:
        return
    yield from _judge_special_ids(facts, len(tokens.value))
    yield from _judge_byte_tokens(facts)
    if strict and isinstance(tokens.value, StringArray):
        raw = Counter(tokens.value.raw(i) for i in range(len(tokens.value)))
        twice = [token for token, n in raw.items() if n > 1]
        if twice:
            message = f"{len(twice)} tokens occur more than once in the vocabulary"
            yield facts.about_key("G-016", message, TOKENS, repr(twice[0]), severity="warning")


def _judge_arrays(facts: Facts) -> Iterator[Finding]:
    tokens = facts.array(TOKENS)
    for key, element_types in _ELEMENTS.items():
        value = facts.metadata.get(key)
        if value is None:
            continue
        if value.type is not ValueType.ARRAY or value.element_type not in element_types:
            found = value.type.name if value.element_type is None else f"ARRAY of {value.element_type.name}"
            yield facts.about_key(
                "G-011", f"{key} has the wrong type", key, found, f"ARRAY of {element_types[0].name}"
            )
        elif key in _PARALLEL and tokens is not None and len(value.value) != len(tokens.value):
            message = f"{key} is not as long as the vocabulary: readers index it by token"
            yield facts.about_key("G-012", message, key, len(value.value), len(tokens.value))


def _judge_special_ids(facts: Facts, n_tokens: int) -> Iterator[Finding]:
    for key, value in facts.metadata.items():
        if not re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key):
            continue
        if value.type not in INTEGERS:
            yield facts.about_key(
                "G-013", "a token id that is not an integer", key, value.type.name, "UINT32"
            )
        elif not 0 <= value.value < n_tokens:
            yield facts.about_key(
                "G-013", "a token id outside the vocabulary", key, value.value, f"0 to {n_tokens - 1}"
            )
    yield from _judge_ends(facts, n_tokens)
    for name, default in _DEFAULT_IDS.get(facts.text(MODEL) or "", {}).items():
        key = f"tokenizer.ggml.{name}_token_id"
        if key not in facts.metadata and default >= n_tokens:
            message = f"{key} is missing, and the default, {default}, is outside the vocabulary"
            yield facts.about_key("G-013", message, key, n_tokens, severity="warning")


def _judge_ends(facts: Facts, n_tokens: int) -> Iterator[Finding]:
    """Findings about our own key with all tokens that end a text."""
    value = facts.metadata.get(ALL_ENDS_KEY)
    if value is None:
        return
    if value.element_type not in INTEGERS:
        found = (value.element_type or value.type).name
        yield facts.about_key("G-013", "token ids that are not integers", ALL_ENDS_KEY, found, "UINT32")
        return
    wrong = next((token for token in value.value if not 0 <= token < n_tokens), None)
    if wrong is not None:
        message, expected = "a token id outside the vocabulary", f"0 to {n_tokens - 1}"
        yield facts.about_key("G-013", message, ALL_ENDS_KEY, int(wrong), expected)


def _judge_byte_tokens(facts: Facts) -> Iterator[Finding]:
    types, tokens = facts.array("tokenizer.ggml.token_type"), facts.array(TOKENS)
    if (
        types is None
        or tokens is None
        or len(types.value) != len(tokens.value)
        or types.element_type not in _ELEMENTS["tokenizer.ggml.token_type"]
    ):
        return
    for i in np.flatnonzero(np.asarray(types.value) == _BYTE):
        token = tokens.value[int(i)]
        if facts.text(MODEL) == "llama" and not re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            finding = facts.about_key(
                "G-014", f"token {i} is for a byte, but is not written <0xNN>", TOKENS, token
            )
            yield finding
