"""Properties of the readers of a checkpoint's side files: tokenizer.json, tokenizer.model, config.json, the
model card. Whatever is in them gives metadata that a GGUF file can hold, or the package's own error.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st

from gguflow import models
from gguflow.container.metadata import Metadata
from gguflow.container.writer import build
from gguflow.errors import MAX_WARNINGS, FileError, GguflowError, gathered_warnings
from gguflow.models.card import MAX_FRONT_MATTER_NBYTES, heading_text, read_card
from gguflow.models.defaults import model_types
from gguflow.models.documents import Document
from gguflow.models.families import llama, qwen2
from gguflow.models.tokenizers import template_check
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece_model import read_pieces
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata
from gguflow.sources import strict_json
from testing.checkpoints import TINY
from testing.config_layouts import LLAMA3, PLAIN, ROPE, YARN
from testing.families import BPE, LLAMA3_SPLIT, SETTINGS, WORDPIECE, checkpoint, files, shapes
from testing.fuzzing.changes import as_bytes, changed_bytes, changed_json, changed_text

N_TOKENS = 24

PIECES: dict[str, Any] = {
    "added_tokens": [
        {"id": 1, "content": "<s>", "special": True},
        {"id": 9, "content": "<x>", "special": False},
    ],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]},
    "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"},
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}], "pair": []},
    "decoder": {"type": "Sequence", "decoders": []},
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "a": 3, "b": 4, "ab": 5, "aba": 6},
        "merges": [["a", "b"], ["ab", "a"]],
    },
}
"""A SentencePiece model as tokenizer.json."""

Tokenizer = tuple[str, dict[str, Any], dict[str, Any] | None, dict[str, Any]]
"""The name of a reader, tokenizer.json, tokenizer_config.json, and keys of config.json."""

READERS: dict[str, Callable[[TokenizerFiles], Metadata]] = {
    "llama": llama.tokenizer,
    "qwen2": qwen2.tokenizer,
    "wordpiece": wordpiece_metadata,
}
_ROBERTA = {"type": "RobertaProcessing", "sep": ["<|end|>", 1], "cls": ["<|begin|>", 0]}
_DECODER = {"added_tokens_decoder": {"13": {"content": "<late>", "special": True}, "3": {"content": "b"}}}
TOKENIZERS: tuple[Tokenizer, ...] = (
    ("llama", BPE, SETTINGS["bpe"], {}),
    ("qwen2", BPE, SETTINGS["bpe"] | _DECODER, {"eos_token_id": 1}),
    ("llama", BPE | {"post_processor": _ROBERTA}, None, {"bos_token_id": 0}),
    (
        "llama",
        BPE
        | {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "normalizer": {"type": "NFC"}},
        SETTINGS["bpe"] | {"add_prefix_space": False, "add_bos_token": True},
        {},
    ),
    (
        "llama",
        BPE
        | {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "Punctuation", "behavior": "Contiguous"},
                    LLAMA3_SPLIT,
                ],
            }
        },
        None,
        {},
    ),
    ("llama", PIECES, {"bos_token": "<s>", "extra_special_tokens": ["<x>"]}, {"pad_token_id": -1}),
    ("llama", PIECES, None, {}),
    ("wordpiece", WORDPIECE, SETTINGS["wordpiece"], {"type_vocab_size": 2}),
    ("wordpiece", WORDPIECE, None, {}),
    (
        "wordpiece",
        WORDPIECE
        | {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Lowercase"}, {"type": "StripAccents"}],
            }
        },
        SETTINGS["wordpiece"] | {"eos_token": "x", "bos_token": {"content": "[CLS]"}},
        {},
    ),
)
_KEYS = (
    *("id", "content", "special", "type", "vocab", "merges", "added_tokens", "Sequence", "normalizers"),
    *("SpecialToken", "single", "pair", "byte_fallback", "ignore_merges", "lowercase", "strip_accents"),
    *("bos_token", "eos_token", "sep_token", "cls_token", "add_eos_token", "additional_special_tokens"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "13", "a", "x"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, -2, -1, 0, 1, 2, 9, N_TOKENS - 1, N_TOKENS, 2**31, 2**64, -(10**30), 1.5, -0.0),
    *(float("inf"), "BPE", "WordPiece", "Unigram", "Sequence", "Metaspace", "Lowercase", "StripAccents"),
    *("BertNormalizer", "ByteLevel", "RobertaProcessing", "TemplateProcessing", "Split", "Digits", "a b"),
    *("ab", "a", "\u2581", "<0x0A>", "<|begin|>", "[CLS]", "\ud800", "", [], {}, ["a", "b"], ["a"], [[[]]]),
    *({"type": "Sequence"}, {"content": "x"}, {"SpecialToken": {"id": "[SEP]"}}, {"id": 4, "content": "x"}),
)


def json_values(keys: tuple[str, ...], scalars: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """JSON values of any form."""
    return st.recursive(
        st.sampled_from(scalars).map(copy.deepcopy) | st.text(max_size=4) | st.integers(-2, 30),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(keys) | st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    )


def _tokenizers() -> st.SearchStrategy[tuple[str, bytes, Any, Any]]:
    """Parts of good files, beside anything."""
    value = json_values(_KEYS, _VALUES)
    parts = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")

    def whole(given: tuple[Tokenizer, dict[str, Any], Any]) -> tuple[str, bytes, Any, Any]:
        (name, tokenizer, settings, config), replaced, other = given
        return name, json.dumps(tokenizer | replaced).encode(), settings if other is None else other, config

    return st.tuples(
        st.sampled_from(TOKENIZERS),
        st.dictionaries(st.sampled_from(parts), value, max_size=2),
        st.none() | st.dictionaries(st.sampled_from(_KEYS), value, max_size=3),
    ).map(whole)


def changed_tokenizer(rng: random.Random) -> tuple[str, bytes, Any, Any]:
    name, tokenizer, settings, config = rng.choice(TOKENIZERS)
    return (
        name,
        as_bytes(changed_json(tokenizer, rng, _KEYS, _VALUES), rng),
        settings if rng.random() < 0.5 else changed_json(settings, rng, _KEYS, _VALUES, 2),
        config if rng.random() < 0.7 else changed_json(config | {"eos_token_id": 1}, rng, _KEYS, _VALUES, 2),
    )


NOWHERE = Path("/nonexistent/checkpoint")


def tokenizer_json(given: tuple[str, bytes, Any, Any]) -> None:
    """A tokenizer of as many tokens as the model has, whose special tokens are among them."""
    name, content, settings, config = given
    try:
        tokenizer = strict_json.parse(content, NOWHERE / "tokenizer.json", allow_infinity=True)
        if not isinstance(tokenizer, dict) or (settings is not None and not isinstance(settings, dict)):
            return
        found = TokenizerFiles(
            NOWHERE,
            Document(NOWHERE / "config.json", {"vocab_size": N_TOKENS, **config}),
            Document(NOWHERE / "tokenizer.json", tokenizer),
            None if settings is None else Document(NOWHERE / "tokenizer_config.json", settings),
        )
        metadata = READERS[name](found)
    except FileError:
        return
    check_tokenizer(metadata)


def check_tokenizer(metadata: Metadata) -> None:
    """Every list is as long as the vocabulary, every score a number, every id one of a token."""
    n_tokens = len(metadata["tokenizer.ggml.tokens"].value)
    if n_tokens != N_TOKENS or len(metadata["tokenizer.ggml.token_type"].value) != n_tokens:
        raise AssertionError(f"{n_tokens} tokens")
    if (scores := metadata.get("tokenizer.ggml.scores")) is not None and not (
        len(scores.value) == n_tokens and np.isfinite(np.asarray(scores.value, np.float32)).all()
    ):
        raise AssertionError("scores that are missing or no numbers")
    for key, value in metadata.items():
        if key.endswith("_token_id") and not 0 <= value.value < n_tokens:
            raise AssertionError(f"{key} is {value.value}")


@cache
def small_pieces() -> bytes:
    """The first pieces of a real model, and its trainer's settings cut down to the kind of model."""
    content = (TINY / "tokenizer.model").read_bytes()
    ends = [i for i in range(2, 600) if content[i : i + 2] in (b"\n\x0d", b"\n\x0e", b"\n\x0f", b"\n\x10")]
    return content[: ends[-1]] + b"\x12\x02\x18\x02"


OTHER_PIECES = (
    b"\n\x03\n\x01a",  # a piece without score and type
    b"\n\x0a\n\x03<s>\x15\0\0\0\0\x18\x03"[:13],
    b"\n\x0a\n\x01b\x15\0\0\x80\xbf\x18\x04",
    b"\n\x0e\n\x06<0x0A>\x15\0\0\0\0\x18\x06"[:16],
)
_PIECE_BYTES = (
    *(
        b"\xff" * 10,
        b"\x0a",
        b"\x12\x00",
        b"\x80",
        b"\0\0\xc0\x7f",
        b"[" * 50,
        b"{",
        b"\x18\x02",
        b"\x18\x63",
    ),
    *(b"\x19" + b"\0" * 8, b"\x1d\0\0\0\0", b"\x1b", b"\x00", b"\x12\x02\x18\x02", *OTHER_PIECES),
)


def changed_pieces(rng: random.Random) -> bytes:
    seeds = (small_pieces(), small_pieces(), b"IQ== 0\nIg== 1\n", b"!!=! 0\n")
    return changed_bytes(seeds, rng, _PIECE_BYTES)


def _pieces() -> st.SearchStrategy[bytes]:
    """Messages of any fields."""

    def field(given: tuple[int, int, bytes]) -> bytes:
        number, kind, content = given
        length = bytes([len(content)]) if kind == 2 else b""
        return bytes([number << 3 | kind]) + length + content

    value = st.binary(max_size=12) | st.sampled_from(_PIECE_BYTES)
    inner = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), value).map(field), max_size=4)
    message = st.tuples(st.sampled_from([1, 1, 1, 2, 3]), st.just(2), inner.map(b"".join)).map(field)
    end = st.sampled_from([b"", b"\n\x0c\n\x05<unk>\x18\x02\x12\x00"[:14] + b"\x12\x00"])
    return st.one_of(
        st.binary(),
        st.tuples(st.lists(message | st.sampled_from(OTHER_PIECES), max_size=6).map(b"".join), end).map(
            b"".join
        ),
    )


def tokenizer_model(content: bytes) -> None:
    """Pieces that are texts, none of them twice; through the family's function too, which pads and cuts them
    to the model's vocabulary.
    """
    try:
        pieces = read_pieces(content, Path("tokenizer.model"))
    except FileError:
        pieces = []
    if not len({piece.text for piece in pieces}) == len(pieces) <= len(content):
        raise AssertionError("a piece occurs twice")
    directory = scratch()
    (directory / "tokenizer.model").write_bytes(content)
    config = Document(directory / "config.json", {"vocab_size": N_TOKENS})
    try:
        metadata = llama.tokenizer(TokenizerFiles(directory, config, None, None))
    except FileError:
        return
    check_tokenizer(metadata)
    build(metadata, ())


@cache
def scratch() -> Path:
    """A directory of this process, where the system keeps files in memory if it can."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    made = tempfile.TemporaryDirectory(prefix="gguflow-fuzz-", dir=place)
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the process ends."""

FAMILIES = ("llama", "qwen2", "qwen3", "bert")
CONFIG_KEYS = (
    *sorted({key for name in ("llama", "qwen2", "qwen3", "bert") for key in model_types()[name]}),
    *sorted({key for _, keys in ROPE.values() for key in keys}),
    *("text_config", "llm_config", "thinker_config", "eos_token_id", "bos_token_id", "partial_rotary_factor"),
    *("model_type", "architectures", "rope_local_base_freq", "is_causal", "quantization_config", "id2label"),
)
ROPE_KEYS = (
    *sorted({*YARN, *LLAMA3, *PLAIN, "type", "full_attention", "sliding_attention", "attention_factor"}),
    *("beta_fast", "beta_slow", "partial_rotary_factor", "truncate", "mscale", "extrapolation_factor"),
)
CONFIG_VALUES: tuple[Any, ...] = (
    *(None, True, False, -3, -1, 0, 1, 2, 4, 7, 24, 32, 64, 2**31, 2**63, 10**400, -(10**30)),
    *(0.0, -0.0, 0.5, 4.0, 1e-45, 1e4, 1e6, 1e38, 1e300, float("nan"), float("inf")),
    *("", "default", "linear", "yarn", "llama3", "dynamic", "longrope", "\ud800", "\x1b[31m"),
    *("full_attention", "sliding_attention", "silu", "gelu", "llama", "mistral", [], {}, [1, 23, -1], ["a"]),
    *(YARN, LLAMA3, PLAIN, {"full_attention": YARN}, {"0": "a", "1": "b"}, {"rope_theta": 1e4}),
    *(["full_attention", "sliding_attention"], ["full_attention"] * 2, {"hidden_size": 32}),
)
GENERATIONS: tuple[Any, ...] = (
    None,
    {"eos_token_id": [1, 10]},
    {"eos_token_id": "a"},
    {"temperature": 0.5},
    [],
)

Config = tuple[str, dict[str, Any], Any, bool]
"""A family, config.json, generation_config.json or None, and whether tokenizer_config.json names tokens."""


@cache
def config_seeds() -> tuple[Config, ...]:
    """Every layout of rotary embeddings, and what else the readers know."""
    found: list[Config] = [(family, files(family)["config.json"], None, True) for family in FAMILIES]
    for model_type, keys in ROPE.values():
        family = model_type if model_type in FAMILIES else "llama"
        found.append((family, files(family)["config.json"] | keys, None, True))
    base = files("llama")["config.json"]
    nested = {key: value for key, value in base.items() if key != "architectures"}
    found += [
        ("llama", {"architectures": base["architectures"], "text_config": nested}, None, True),
        (
            "llama",
            {"architectures": base["architectures"], "thinker_config": {"text_config": nested}},
            None,
            False,
        ),
        ("llama", base | {"eos_token_id": [1, 10, 11, 3, 4]}, {"eos_token_id": [2, 5]}, False),
        ("bert", files("bert")["config.json"] | {"id2label": {"0": "a", "1": "b"}}, None, True),
        ("llama", nested | {"architectures": base["architectures"], "eos_token_id": None}, None, False),
    ]
    return tuple(found)


def changed_config(rng: random.Random) -> Config:
    family, config, generation, is_named = rng.choice(config_seeds())
    keys = ROPE_KEYS if rng.random() < 0.5 else CONFIG_KEYS
    changed = changed_json(config, rng, keys, CONFIG_VALUES)
    generation = generation if rng.random() < 0.8 else copy.deepcopy(rng.choice(GENERATIONS))
    return family, changed, generation, is_named and rng.random() < 0.9


def _configs() -> st.SearchStrategy[Config]:
    """Good configurations with any values under keys that are known."""
    value = json_values(ROPE_KEYS, CONFIG_VALUES)
    return st.tuples(
        st.sampled_from(FAMILIES),
        st.dictionaries(st.sampled_from(CONFIG_KEYS), value, max_size=5),
        st.one_of(st.sampled_from(GENERATIONS), value),
        st.booleans(),
    ).map(lambda given: (given[0], files(given[0])["config.json"] | given[1], *given[2:]))


def config(given: Config) -> None:
    """A model whose metadata can be written, with warnings that can be read."""
    family, values, generation, is_named = given
    contents = files(family)
    if not is_named:
        contents["tokenizer_config.json"] = {}
    contents["config.json"] = values
    directory = scratch()
    (directory / "generation_config.json").unlink(missing_ok=True)
    (directory / "tokenizer.model").unlink(missing_ok=True)
    if generation is not None:
        contents["generation_config.json"] = generation
    try:
        with patch.object(template_check, "is_available", lambda: False):  # no process for each input
            model = models.load(checkpoint(directory, contents, shapes(family)))
    except GguflowError as error:
        str(error).encode()
        return
    if len(model.warnings) > MAX_WARNINGS:
        raise AssertionError(f"{len(model.warnings)} warnings")
    for warning in model.warnings:
        str(warning).encode()
    build(model.metadata, ())


CARDS = (
    "license: apache-2.0\nlanguage:\n- en\n- no\ntags: [chat, text-generation]\nbase_model: a/B-1B\n",
    "name: My Model\nauthor: me\nversion: v1.5\norganization: us\nbasename: mine\nsize_label: 1B\n",
    "license: [mit, apache-2.0]\nlicense_name: both\nlicense_link: LICENSE\ndescription: |\n  a\n  b\n",
    "base_model:\n- {name: a, organization: b, repo_url: https://c}\n- d/e-7B-v2\ndatasets:\n- name: f\n",
    "base_model: 5\ndatasets: [org/a]\nversion: 0\nname: ''\nauthor: 2024-01-01\ntags:\nlanguage: ~\n",
    "license:\tmit # yes\nname: 'a ''b'''\ndescription: \"a\\tb\\u00e9\"\nlicense_name: >-\n  c\n  d\n",
    "license: mit\nmodel-index:\n- name: x\n  results:\n  - task: {type: y}\n\ntags:\n- z\n",
    "license: &a mit\ntags: &b [c]\n1: a\nnull: b\nname: no\nauthor: 1.5e3\n",
)
_YAML = (
    *("&a ", "*a", "!!x ", "!!binary ", "[", "{", "- ", "? ", ": ", "\n", "'", '"', "|\n", "%", "\x00"),
    *(
        "\\ud800",
        '"\\ud800"',
        "!!str ",
        "!!int x",
        "2001-99-99",
        "<<: ",
        "\n---\n",
        "[" * 25,
        "{a: " * 25,
        "null",
        "{name: [a]}",
        "[[a]]",
        "9" * 300,
    ),
    *("\n- ", "\ntags: ", "\nname: ", "\nbase_model: ", "\nlicense: ", "\ufeff", "...", "\r"),
)


def changed_card(rng: random.Random) -> bytes | None:
    if rng.random() < 0.001:
        return None
    text = f"---\n{changed_text(CARDS, rng, _YAML)}---\n# Model\n"
    if rng.random() < 0.05:
        text = changed_text([text], rng, _YAML)
    encoding = rng.choice(("utf-16", "utf-8-sig", "latin-1")) if rng.random() < 0.02 else "utf-8"
    content = text.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")
    if rng.random() < 0.001:
        content = content.replace(b"---\n", b"---\n" + b"a: b\n" * rng.choice((20_000, 900_000)), 1)
    return content


def _cards() -> st.SearchStrategy[bytes]:
    """Keys that are read, with any YAML under them."""
    value = st.recursive(
        st.sampled_from([*_YAML, "a", "no", "1.0", "0", "~", "true"]) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]")
            | st.lists(inner, max_size=3).map(
                lambda parts: "{" + ", ".join(f"name: {p}" for p in parts) + "}"
            )
        ),
        max_leaves=6,
    )
    key = st.sampled_from(["name", "tags", "license", "base_model", "datasets", "version", "language", "x"])
    line = st.tuples(key, value).map(": ".join)
    text = st.one_of(st.text(), st.lists(line, max_size=5).map("\n".join))
    return text.map(lambda text: f"---\n{text}\n---\n".encode("utf-8", "surrogatepass"))


def card(content: bytes | None) -> None:
    """Values that are texts, of bounded size, and warnings for what is left out; never an error.

    content: of the file; a directory of its name for None.
    """
    directory = scratch() / "card"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    if content is None:
        (directory / "README.md").mkdir()
    else:
        (directory / "README.md").write_bytes(content)
    with gathered_warnings() as warnings:
        values = read_card(directory)
        heading_text(directory).encode()
    if len(json.dumps(values)) > 8 * MAX_FRONT_MATTER_NBYTES:
        raise AssertionError("more than the card has")
    json.dumps(values, ensure_ascii=False).encode()
    for warning in warnings:
        if warning.finding.rule != "M-020":
            raise AssertionError(f"a warning of another rule: {warning}")
        str(warning).encode()


TOKENIZER_FILES, PIECE_FILES, CONFIGS, MODEL_CARDS = _tokenizers(), _pieces(), _configs(), _cards()
