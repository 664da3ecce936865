"""Small tokenizers of every kind, and what in llama.cpp's converter, and in the package, reads each.

tools/make_tokenizers runs llama.cpp's converter on them and writes fixtures/tokenizers.json. This module
needs nothing but the standard library, since it runs beside the converter too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Case:
    """A checkpoint's tokenizer.

    peer: the class of llama.cpp's converter, "module.Class".
    function: of `gguflow.models.tokenizers`, "module.function".
    files: contents by name: bytes, text, or what is written as JSON.
    config: of config.json.
    differences: the ids of intended differences that apply.
    attributes: of the converter, that its constructor would set.
    pre: the name that the hash of the ids is taken to stand for.
    """

    peer: str
    function: str
    files: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    pre: str = "default"

    def write(self, directory: Path) -> None:
        """Write the files into an existing directory."""
        for name, content in {"config.json": {"vocab_size": 40, **self.config}, **self.files}.items():
            if isinstance(content, bytes):
                (directory / name).write_bytes(content)
            else:
                text = content if isinstance(content, str) else json.dumps(content)
                (directory / name).write_text(text, encoding="utf-8")


# Byte-level BPE


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte, in the order of bytes."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printed else chr(next(others)) for byte in range(256)]


def bpe_json(
    added: Iterable[str] = (),
    *,
    plain: Iterable[str] = (),
    split: str = LLAMA3,
    special: Mapping[str, Any] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """A tokenizer.json of all bytes and a few merges: 256 letters, 6 merged tokens, then the added ones.

    added: special tokens.
    plain: added tokens that are not special.
    split: the expression of its pre-tokenizer.
    special: more of each added token.
    parts: in the place of parts of the file, or None for none.
    """
    letters = byte_letters()
    merges = [("a", "b"), ("Ġ", "t"), ("3", "3"), ("33", "3"), ("'", "'"), ("Ġ", "Ġ")]
    tokens = [*letters, *dict.fromkeys(left + right for left, right in merges)]
    base = {"lstrip": False, "rstrip": False, "single_word": False, **(special or {})}
    ends = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    texts = [(text, True) for text in added] + [(text, False) for text in plain]
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(tokens) + i, "content": text, "normalized": not is_special, "special": is_special}
            | base
            for i, (text, is_special) in enumerate(texts)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": ends,
        "decoder": ends,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: token for token, text in enumerate(tokens)},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }
    return {**value, **parts}


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
GLM = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|user|>", "<|observation|>")


def byte_level(
    peer: str,
    function: str,
    tokenizer: dict[str, Any],
    config: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Case:
    """A case of byte-level BPE; settings: of tokenizer_config.json."""
    return Case(
        peer,
        function,
        {"tokenizer.json": tokenizer, "tokenizer_config.json": {**FAST, **settings}},
        {"vocab_size": 272, **(config or {})},
    )


def framed(first: int, last: int | None = None) -> dict[str, Any]:
    """A post-processor that frames texts with the added tokens of these ids, called <b> and <e>."""
    single: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "<b>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"<b>": {"id": "<b>", "ids": [first], "tokens": ["<b>"]}}
    if last is not None:
        single.append({"SpecialToken": {"id": "<e>", "type_id": 0}})
        pair.append({"SpecialToken": {"id": "<e>", "type_id": 1}})
        special["<e>"] = {"id": "<e>", "ids": [last], "tokens": ["<e>"]}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


CASES: dict[str, Case] = {
    "gpt2": byte_level("gpt2.GPT2Model", "bpe.bpe_metadata", bpe_json(("<e>",), split=GPT2), eos_token="<e>"),
    "gpt2 framed": byte_level(
        "gpt2.GPT2Model",
        "bpe.bpe_metadata",
        bpe_json(("<b>", "<e>"), plain=("<think>", "  "), post_processor=framed(261, 262)),
        bos_token="<b>",
        eos_token="<e>",
    ),
    "glm4": byte_level("glm.Glm4Model", "variants.glm_edge_metadata", bpe_json(GLM)),
    "glm4 with ids": byte_level(
        "glm.Glm4Model", "variants.glm_edge_metadata", bpe_json(GLM), {"eos_token_id": 3}, bos_token="<sop>"
    ),
    "glm4 moe": byte_level(
        "glm.Glm4MoeModel", "variants.glm_metadata", bpe_json(GLM), eos_token="<|endoftext|>"
    ),
    "chatglm": byte_level("chatglm.ChatGLMModel", "variants.chatglm_metadata", bpe_json(GLM)),
    "solar open": byte_level(
        "glm.SolarOpenModel",
        "variants.solar_open_metadata",
        bpe_json(("<unk>", "<|startoftext|>", "<|endoftext|>")),
    ),
    "dots3": byte_level(
        "dots3.Dots3NoteModel",
        "variants.dots3_metadata",
        bpe_json(("<|endofassistant|>", "<e>")),
        eos_token="<e>",
    ),
    "muse glimmer": byte_level(
        "muse_glimmer.MuseGlimmerModel", "variants.muse_glimmer_metadata", bpe_json(("<|eot|>", "<e>"))
    ),
    "intern s1": byte_level(
        "base.TextModel._set_vocab_interns1",
        "variants.intern_s1_metadata",
        bpe_json(("<e>",), plain=("a▁b",)),
        {"vocab_size": 151700},
    ),
    "refact": byte_level("refact.RefactModel", "bpe.bpe_metadata", bpe_json(("<e>",)), {"bos_token_id": 0}),
    "modern bert": byte_level(
        "bert.ModernBertModel",
        "variants.modern_bert_metadata",
        bpe_json(("<b>", "<e>"), post_processor=framed(261, 262)),
        cls_token="<b>",
        sep_token="<e>",
    ),
    "modern bert unframed": byte_level(
        "bert.ModernBertModel", "variants.modern_bert_metadata", bpe_json(("<b>",), post_processor=None)
    ),
    "euro bert": byte_level(
        "bert.EuroBertModel",
        "variants.euro_bert_metadata",
        bpe_json(("<b>", "<e>"), post_processor=framed(261)),
        bos_token="<b>",
    ),
    "llada": byte_level(
        "llada.LLaDAModel", "variants.llada_metadata", bpe_json(("<b>", "<e>")), bos_token="<b>"
    ),
    "mamba": byte_level(
        "mamba.MambaModel",
        "variants.mamba_metadata",
        bpe_json(("<e>",)),
        {"vocab_size": 273},
        eos_token="<e>",
    ),
    "mamba 2": byte_level(
        "mamba.Mamba2Model",
        "variants.mamba2_metadata",
        bpe_json(("<e>",)),
        {"vocab_size": 273},
        eos_token="<e>",
    ),
    "mamba 2 with a multiple": byte_level(
        "mamba.Mamba2Model",
        "variants.mamba2_metadata",
        bpe_json(("<e>",)),
        {"vocab_size": 273, "pad_vocab_size_multiple": 5},
    ),
    "nemotron-h": byte_level(
        "nemotron.NemotronHModel", "variants.nemotron_h_metadata", bpe_json(("<e>",)), {"vocab_size": 273}
    ),
    "phi-4": byte_level(
        "phi.Phi3MiniModel",
        "variants.phi3_metadata",
        bpe_json(("<|endoftext|>",)),
        tokenizer_class="GPT2Tokenizer",
        eos_token="<|endoftext|>",
    ),
}
