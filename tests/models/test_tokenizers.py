"""Tokenizers: what becomes of tokens, types, merges, special tokens and templates; and the pre-tokenizer's
name, found from its definition.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gguflow import models
from gguflow.container.metadata import Metadata
from gguflow.errors import UnsupportedError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.pre_tokenizers import (
    GPT2,
    LLAMA3,
    PRE_TOKENIZERS,
    QWEN2,
    PreTokenizer,
    pre_tokenizer_name,
)
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata
from gguflow.models.tokenizers.special_tokens import special_metadata
from testing.checkpoints import TINY
from testing.families import BPE, BYTE_LEVEL, LLAMA3_SPLIT, SETTINGS, WORDPIECE, checkpoint, files, shapes

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
PREFIX = "tokenizer.ggml."


def tokenizer_keys(family: str, directory: Path, **contents: Any) -> dict[str, Any]:
    """The tokenizer's keys of a checkpoint whose files are changed: NAME_json=... replaces NAME.json, None
    removes it.
    """
    changed = files(family)
    for name, content in contents.items():
        changed[name.replace("_json", ".json").replace("_txt", ".txt")] = content
    metadata = models.load(
        checkpoint(
            directory,
            {name: content for name, content in changed.items() if content is not None},
            shapes(family),
        )
    ).metadata
    return plain(metadata)


def plain(metadata: Metadata) -> dict[str, Any]:
    return {
        key.removeprefix(PREFIX): value.value
        for key, value in metadata.items()
        if key.startswith("tokenizer.")
    }


def write(directory: Path, contents: dict[str, Any]) -> Path:
    for name, content in contents.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    return directory


def tokenizer_files(directory: Path, config: dict[str, Any] | None = None) -> TokenizerFiles:
    return TokenizerFiles.read(Document(directory / "config.json", config or {}), directory)


def test_byte_level_bpe(tmp_path: Path) -> None:
    """Everything that llama.cpp's tokenizer "gpt2" is built from, in its converter's order."""
    keys = tokenizer_keys("llama", tmp_path)
    special = ["bos_token_id", "eos_token_id", "add_bos_token", "add_eos_token", "tokenizer.chat_template"]
    assert list(keys) == ["model", "pre", "tokens", "token_type", "merges", *special]
    assert (keys["model"], keys["pre"]) == ("gpt2", "llama-bpe")
    own = ["<|begin|>", "<|end|>", "a", "b", "c", "\u0120", "ab", "abc", "\u0120a", "\u0120ab"]
    assert keys["tokens"] == [*own, "<tool>", "<|looks|>", "two words", *(f"[PAD{i}]" for i in range(13, 24))]
    assert (
        keys["token_type"]
        == [CONTROL] * 2 + [NORMAL] * 8 + [USER_DEFINED, CONTROL, USER_DEFINED] + [UNUSED] * 11
    )
    assert keys["merges"] == ["a b", "ab c", "\u0120 a", "\u0120a b"]
    assert keys["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize(
    ("merges", "expected"),
    [(["a b", "ab c"], ["a b", "ab c"]), ([["a", "b"]], ["a b"]), ([["a ", "b"]], ["a\u0120 b"]), ([], None)],
    ids=["text", "pairs", "a space in a pair", "none"],
)
def test_merges(merges: list[Any], expected: list[str] | None, tmp_path: Path) -> None:
    keys = tokenizer_keys(
        "llama", tmp_path, tokenizer_json={**BPE, "model": {**BPE["model"], "merges": merges}}
    )
    assert keys.get("merges") == expected


ADDED: dict[str, tuple[dict[str, Any], dict[int, tuple[str, int]]]] = {
    "named, and new: appended": (
        {"pad_token": "<pad>", "unk_token": "<new>"},
        {13: ("<new>", CONTROL), 14: ("<pad>", CONTROL)},
    ),
    "named, and in the vocabulary: marked": (
        {"unk_token": "abc"},
        {7: ("abc", CONTROL), 13: ("[PAD13]", UNUSED)},
    ),
    "named, and added already: marked": ({"mask_token": "<tool>"}, {10: ("<tool>", CONTROL)}),
    "extra, and added already: as it was": (
        {"extra_special_tokens": ["<tool>"]},
        {10: ("<tool>", USER_DEFINED)},
    ),
    "extra special tokens": (
        {"additional_special_tokens": ["<x>"], "extra_special_tokens": {"y": "<y>"}},
        {13: ("<x>", CONTROL), 14: ("<y>", CONTROL)},
    ),
    "listed: the text decides, not the id": (
        {"added_tokens_decoder": {"20": {"content": "<late>"}, "3": {"content": "<tool>", "special": True}}},
        {10: ("<tool>", CONTROL), 13: ("<late>", USER_DEFINED), 3: ("b", NORMAL)},
    ),
}


@pytest.mark.parametrize(("settings", "expected"), ADDED.values(), ids=ADDED.keys())
def test_tokens_that_only_the_settings_know(
    settings: dict[str, Any], expected: dict[int, tuple[str, int]], tmp_path: Path
) -> None:
    """As transformers adds them; the whole of it was compared with llama.cpp's converter."""
    keys = tokenizer_keys("llama", tmp_path, tokenizer_config_json={**SETTINGS["bpe"], **settings})
    assert {token: (keys["tokens"][token], keys["token_type"][token]) for token in expected} == expected


def split(*regexes: str, **changes: Any) -> list[dict[str, Any]]:
    """Steps that split by regular expressions, then byte-level encoding."""
    return [{**LLAMA3_SPLIT, "pattern": {"Regex": regex}, **changes} for regex in regexes] + [BYTE_LEVEL]


DIGITS = {"type": "Digits", "individual_digits": True}
POSSESSIVE = LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)").replace(
    "\\p{N}]?\\p{L}", "\\p{N}]?+\\p{L}"
)
PRE: dict[str, tuple[list[dict[str, Any]], bool, str]] = {
    "GPT-2": ([{**BYTE_LEVEL, "use_regex": True}], False, "gpt-2"),
    "GPT-2, use_regex by default": ([{"type": "ByteLevel", "add_prefix_space": False}], False, "gpt-2"),
    "GPT-2's expression written out": (split(GPT2), False, "gpt-2"),
    "Llama 3": (split(LLAMA3), True, "llama-bpe"),
    "Llama 3, merges not ignored": (split(LLAMA3), False, "dbrx"),
    "Llama 3, possessive": (split(POSSESSIVE), True, "llama-bpe"),
    "Llama 3, literal line ends": (split(LLAMA3.replace("\\r\\n", "\r\n")), True, "llama-bpe"),
    "Llama 3, matches removed and inverted": (
        split(LLAMA3, behavior="Removed", invert=True),
        True,
        "llama-bpe",
    ),
    "Qwen2": (split(QWEN2), False, "qwen2"),
    "SmolLM": ([DIGITS, {**BYTE_LEVEL, "use_regex": True}], False, "smollm"),
    "Falcon": (
        [
            {"type": "Punctuation", "behavior": "Contiguous"},
            {**BYTE_LEVEL, "use_regex": True},
            *split("[0-9][0-9][0-9]")[:1],
        ],
        False,
        "falcon",
    ),
    "DeepSeek Coder": (
        [
            *split("[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")[:-1],
            DIGITS,
            BYTE_LEVEL,
        ],
        False,
        "deepseek-coder",
    ),
    "a sequence in a sequence": ([{"type": "Sequence", "pretokenizers": split(LLAMA3)}], True, "llama-bpe"),
}


def described(
    steps: list[dict[str, Any]], ignore_merges: bool, normalizer: dict[str, Any] | None = None
) -> Document:
    model = {"type": "BPE", "ignore_merges": ignore_merges}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": steps}
    return Document(
        Path("tokenizer.json"), {"model": model, "pre_tokenizer": pre_tokenizer, "normalizer": normalizer}
    )


@pytest.mark.parametrize(("steps", "ignore_merges", "name"), PRE.values(), ids=PRE.keys())
def test_pre_tokenizer_is_found_from_its_definition(
    steps: list[dict[str, Any]], ignore_merges: bool, name: str
) -> None:
    assert pre_tokenizer_name(described(steps, ignore_merges)) == name
    assert pre_tokenizer_name(described(steps, ignore_merges, {"type": "NFC"})) == name


def test_pre_tokenizer_without_a_sequence() -> None:
    document = Document(
        Path("tokenizer.json"), {"pre_tokenizer": {**BYTE_LEVEL, "use_regex": True}, "model": {}}
    )
    assert pre_tokenizer_name(document) == "gpt-2"


@pytest.mark.parametrize(
    "known", [known for known in PRE_TOKENIZERS if known.name != "falcon"], ids=lambda known: known.name
)
def test_every_pre_tokenizer_of_the_table_is_found(known: PreTokenizer) -> None:
    """Its expressions are in normal form, and no row before it has the same."""
    assert pre_tokenizer_name(described(split(*known.regexes), known.ignore_merges or False)) == known.name


DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
"""As it stands in the file: after JSON's escapes, line ends are literal."""


def test_pre_tokenizer_as_it_stands_in_a_file() -> None:
    regex = json.loads(f'"{DEEPSEEK_V3}"')
    assert "\r\n" in regex
    assert (
        pre_tokenizer_name(
            described(split(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", regex), False)
        )
        == "deepseek-v3"
    )


UNKNOWN_PRE: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None, str]] = {
    "an expression of its own": (split("\\w+"), None, "\\\\w+"),
    "text in place of an expression": ([{**LLAMA3_SPLIT, "pattern": {"String": "-"}}], None, "String"),
    "matches removed": (split(QWEN2, behavior="Removed"), None, "Removed"),
    "a space before the text": (
        [{**BYTE_LEVEL, "use_regex": True, "add_prefix_space": True}],
        None,
        "add_prefix_space",
    ),
    "SentencePiece's": ([{"type": "Metaspace", "replacement": "_"}], None, "Metaspace"),
    "nothing at all": ([], None, "pretokenizers"),
    "a normalizer that llama.cpp lacks": (
        split(QWEN2),
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "Lowercase",
    ),
}


@pytest.mark.parametrize(("steps", "normalizer", "shown"), UNKNOWN_PRE.values(), ids=UNKNOWN_PRE.keys())
def test_an_unknown_pre_tokenizer_is_shown(
    steps: list[dict[str, Any]], normalizer: dict[str, Any] | None, shown: str
) -> None:
    with pytest.raises(UnsupportedError, match="M-024") as caught:
        pre_tokenizer_name(described(steps, False, normalizer))
    assert shown in str(caught.value.finding.found)


def test_wordpiece(tmp_path: Path) -> None:
    """Words get the mark of a space, continuations lose theirs, special tokens stay; the keys in llama.cpp's
    order.
    """
    keys = tokenizer_keys("bert", tmp_path)
    assert list(keys)[:5] == ["token_type_count", "model", "pre", "tokens", "token_type"]
    assert keys["tokens"] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "\u2581play",
        "ing",
        *(f"\u2581[PAD{i}]" for i in range(7, 24)),
    ]
    assert keys["token_type"] == [CONTROL] * 5 + [NORMAL] * 2 + [UNUSED] * 17
    rest = {key: keys[key] for key in list(keys)[5:]}
    assert rest == {
        "bos_token_id": 2,
        "eos_token_id": 3,
        "unknown_token_id": 1,
        "seperator_token_id": 3,
        "padding_token_id": 0,
        "mask_token_id": 4,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": False,
        "normalizer.lowercase": True,
    }
    assert (keys["model"], keys["pre"], keys["token_type_count"]) == ("bert", "jina-v2-en", 2)


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_from_a_list(lowercase: bool, tmp_path: Path) -> None:
    """vocab.txt says the same where there is no tokenizer.json; that case is kept is then known from
    tokenizer_config.json alone.
    """
    listed = "".join(f"{text}\n" for text in WORDPIECE["model"]["vocab"])
    settings = {**SETTINGS["wordpiece"], "do_lower_case": lowercase}
    keys = tokenizer_keys(
        "bert", tmp_path / "list", vocab_txt=listed, tokenizer_json=None, tokenizer_config_json=settings
    )
    whole = tokenizer_keys("bert", tmp_path / "json")
    assert (keys["tokens"], keys["token_type"]) == (whole["tokens"], whole["token_type"])
    assert keys.get("normalizer.lowercase") == (None if lowercase else False)


def test_sentencepiece(tmp_path: Path) -> None:
    """The real tokenizer.model: types and scores as SentencePiece has them, padded, with tokens added in
    three ways.
    """
    shutil.copy(TINY / "tokenizer.model", tmp_path / "tokenizer.model")
    settings = {
        "added_tokens_decoder": {
            "4097": {"content": "[INST]", "special": True},
            "4098": {"content": "x\u2581y"},
            "9999": {"content": "no"},
        }
    }
    write(
        tmp_path,
        {"added_tokens.json": {"<added>": 4096, "<beyond>": 5000}, "tokenizer_config.json": settings},
    )
    metadata = sentencepiece_metadata(tokenizer_files(tmp_path, {"vocab_size": 4100}))
    assert metadata is not None
    keys = plain(metadata)
    assert (keys["model"], keys["pre"], len(keys["tokens"])) == ("llama", "default", 4100)
    assert keys["tokens"][:5] == ["<unk>", "<s>", "</s>", "\n", "<0x00>"]
    assert keys["token_type"][:5] == [UNKNOWN, CONTROL, CONTROL, NORMAL, BYTE]
    assert keys["tokens"][4096:] == ["<added>", "[INST]", "x y", "[PAD4099]"]
    assert keys["token_type"][4096:] == [USER_DEFINED, CONTROL, USER_DEFINED, UNUSED]
    assert keys["scores"][4096:] == [-1000.0, -1000.0, -1000.0, -10000.0]


def test_sentencepiece_drops_tokens_that_the_model_has_no_rows_for(tmp_path: Path) -> None:
    shutil.copy(TINY / "tokenizer.model", tmp_path / "tokenizer.model")
    metadata = sentencepiece_metadata(tokenizer_files(tmp_path, {"vocab_size": 100}))
    assert metadata is not None
    assert len(plain(metadata)["tokens"]) == 100


def test_sentencepiece_kept_in_tokenizer_json(tmp_path: Path) -> None:
    """Told from byte-level BPE by its byte fallback; the scores are lost, the types are found from the
    texts.
    """
    vocab = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "\u2581a": 3}
    tokenizer = {
        "added_tokens": [
            {"id": 1, "content": "<s>", "special": True},
            {"id": 4, "content": "<extra>", "special": False},
        ],
        "decoder": {"type": "Sequence", "decoders": []},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": []},
    }
    keys = tokenizer_keys(
        "llama",
        tmp_path,
        tokenizer_json=tokenizer,
        tokenizer_config_json={"bos_token": "<s>", "add_prefix_space": True},
    )
    assert list(keys)[:2] == ["add_space_prefix", "model"]
    assert keys["model"] == "llama"
    assert keys["tokens"][:6] == ["<unk>", "<s>", "<0x0A>", "\u2581a", "<extra>", "[PAD5]"]
    assert keys["token_type"][:6] == [NORMAL, CONTROL, BYTE, NORMAL, USER_DEFINED, UNUSED]
    assert set(keys["scores"][:5]) == {-1000.0}


def frame(first: str | None, last: str | None) -> dict[str, Any]:
    """A post-processor that puts special tokens before and after one sequence."""
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A"}}]
    single = [{"SpecialToken": {"id": first}}, *single] if first else single
    single = [*single, {"SpecialToken": {"id": last}}] if last else single
    return {"type": "TemplateProcessing", "single": single, "pair": []}


ADDED_TOKENS = [
    {"id": token, "content": text} for token, text in enumerate(("<s>", "</s>", "<turn>", "[CLS]", "[SEP]"))
]
SPECIAL: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, Any], dict[str, Any]]] = {
    "names become ids": (
        None,
        {"bos_token": "<s>", "pad_token": {"content": "</s>"}},
        {},
        {"bos_token_id": 0, "padding_token_id": 1},
    ),
    "config fills gaps": (
        None,
        {"bos_token": "<s>"},
        {"bos_token_id": 3, "eos_token_id": 4},
        {"bos_token_id": 0, "eos_token_id": 4},
    ),
    "a list of ends is no id": (None, {}, {"eos_token_id": [1, 2]}, {}),
    "an id beyond the vocabulary": (None, {}, {"pad_token_id": 99}, {}),
    "byte-level adds nothing": (
        {"type": "ByteLevel"},
        {},
        {},
        {"add_bos_token": False, "add_eos_token": False},
    ),
    "the settings say whether to add": (
        None,
        {"add_bos_token": True, "add_eos_token": False},
        {},
        {"add_bos_token": True, "add_eos_token": False},
    ),
    "the post-processor goes first": (
        frame("<s>", None),
        {"bos_token": "<s>", "add_bos_token": False},
        {},
        {"bos_token_id": 0, "add_bos_token": True},
    ),
    "another end makes a turn of the first": (
        frame(None, "</s>"),
        {"eos_token": "<turn>"},
        {},
        {"eos_token_id": 1, "eot_token_id": 2, "add_eos_token": True},
    ),
    "an object is another token than its text": (
        frame("<s>", "</s>"),
        {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}},
        {},
        {
            "bos_token_id": 0,
            "eos_token_id": 1,
            "eot_token_id": 1,
            "add_bos_token": True,
            "add_eos_token": True,
        },
    ),
    "cls and sep stand in": (
        {"type": "Other"},
        {"cls_token": "[CLS]", "sep_token": "[SEP]"},
        {},
        {"bos_token_id": 3, "eos_token_id": 4, "seperator_token_id": 4},
    ),
    "RoBERTa": (
        {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 1]},
        {"bos_token": "<s>"},
        {},
        {
            "bos_token_id": 0,
            "add_bos_token": True,
            "add_eos_token": True,
            "add_sep_token": True,
            "seperator_token_id": 1,
        },
    ),
    "no tokenizer_config.json": (
        frame("<s>", "</s>"),
        None,
        {"bos_token_id": 0},
        {"bos_token_id": 0, "add_bos_token": True, "add_eos_token": True},
    ),
}


@pytest.mark.parametrize(
    ("post_processor", "settings", "config", "expected"), SPECIAL.values(), ids=SPECIAL.keys()
)
def test_special_tokens(
    post_processor: dict[str, Any] | None,
    settings: dict[str, Any] | None,
    config: dict[str, Any],
    expected: dict[str, Any],
    tmp_path: Path,
) -> None:
    contents: dict[str, Any] = {
        "tokenizer.json": {"added_tokens": ADDED_TOKENS, "post_processor": post_processor}
    }
    if settings is not None:
        contents["tokenizer_config.json"] = settings
    keys = plain(special_metadata(tokenizer_files(write(tmp_path, contents), config), 10))
    ids = {key: value for key, value in keys.items() if key.startswith("add_") or key.endswith("_token_id")}
    assert ids == expected


TEMPLATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "in the settings": ({"tokenizer_config.json": {"chat_template": "A"}}, {"": "A"}),
    "in the settings and in a JSON file": (
        {"tokenizer_config.json": {"chat_template": "A"}, "chat_template.json": {"chat_template": "C"}},
        {"": "A"},
    ),
    "in the settings and a file": (
        {"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "B"},
        {"": "B"},
    ),
    "a list in the settings and a file": (
        {
            "tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "A"}]},
            "chat_template.jinja": "B",
        },
        {"": "B"},
    ),
    "null in the settings and a file": (
        {"tokenizer_config.json": {"chat_template": None}, "chat_template.jinja": "B"},
        {"": "B"},
    ),
    "null in the settings and a JSON file": (
        {"tokenizer_config.json": {"chat_template": None}, "chat_template.json": {"chat_template": "C"}},
        {"": "C"},
    ),
    "a file and no settings": ({"chat_template.jinja": "B"}, {"": "B"}),
    "a JSON file and no settings": ({"chat_template.json": {"chat_template": "C"}}, {"": "C"}),
    "both files": (
        {"chat_template.jinja": "B", "chat_template.json": {"chat_template": "C"}},
        {"": "B"},
    ),
    "an empty file": (
        {"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": ""},
        {},
    ),
    "files beside the settings": (
        {"tokenizer_config.json": {"chat_template": "A"}, "additional_chat_templates/rag.jinja": "B"},
        {"": "A", ".rag": "B", "s": ["rag"]},
    ),
    "a file": ({"tokenizer_config.json": {}, "chat_template.jinja": "{{ 'B' }}\r\n"}, {"": "{{ 'B' }}\n"}),
    "a JSON file": ({"tokenizer_config.json": {}, "chat_template.json": {"chat_template": "C"}}, {"": "C"}),
    "several": (
        {
            "tokenizer_config.json": {
                "chat_template": [{"name": "default", "template": "A"}, {"name": "tool use", "template": "B"}]
            }
        },
        {"": "A", ".tool_use": "B", "s": ["tool_use"]},
    ),
    "files beside the file": (
        {"tokenizer_config.json": {}, "chat_template.jinja": "A", "additional_chat_templates/rag.jinja": "B"},
        {"": "A", ".rag": "B", "s": ["rag"]},
    ),
    "none": ({"tokenizer_config.json": {}}, {}),
    "of the wrong type": ({"tokenizer_config.json": {"chat_template": 7}}, {}),
}


@pytest.mark.parametrize(("contents", "expected"), TEMPLATES.values(), ids=TEMPLATES.keys())
def test_chat_template_is_copied(contents: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    keys = plain(special_metadata(tokenizer_files(write(tmp_path, contents))))
    found = {
        key.removeprefix("tokenizer.chat_template"): value
        for key, value in keys.items()
        if "chat_template" in key
    }
    assert found == expected


def test_code_llama_and_smollm_are_known_by_their_sizes(tmp_path: Path) -> None:
    for n_tokens, expected in (
        (32016, {"prefix_token_id": None, "eot_token_id": 32010}),
        (49152, {"add_bos_token": False}),
    ):
        contents = files("llama")
        contents["config.json"]["vocab_size"] = n_tokens
        tensors = shapes("llama") | dict.fromkeys(
            ("model.embed_tokens.weight", "lm_head.weight"), (n_tokens, 32)
        )
        keys = plain(models.load(checkpoint(tmp_path / str(n_tokens), contents, tensors)).metadata)
        assert {key: keys.get(key) for key in expected} == expected
