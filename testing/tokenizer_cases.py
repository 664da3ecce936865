"""Small tokenizers of every kind, and what in llama.cpp's converter, and in the package, reads each.

tools/make_tokenizers runs llama.cpp's converter on them and writes fixtures/tokenizers.json. This module
needs nothing but the standard library, since it runs beside the converter too.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
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


# SentencePiece


def varint(number: int) -> bytes:
    head = b""
    while number > 127:
        head += bytes([number & 127 | 128])
        number >>= 7
    return head + bytes([number])


def message(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


_COMPRESSED = (
    "eNod0mWQFgQQBuAPhqGkQeluke6Go0saBck7uru7u5SW7hIUkO7u7u7ubp5jZ56ZnXdn9s9uIFxAhQkUjRQIBMUP7QN9wxIa"
    "RyA8RoGI/EBkohKF6EQjJjGITSx+JA5x+YnQtfFISAISk4ikJCE5yUhJClKTirSkIT3pyMDPZOQXMpOJrGQhO9nISQ5yk4u8"
    "5CE/+ShIAQpTiKIUoRhBlKA4pShJGUpTjrJUoDwV+ZXKVKIqVahONX6jBjX5nT+oRR1qU4+6NKA+IQTTiIY0oTHNaEoLmtOK"
    "lrShNe1oSwfa04mOdKEz3ehKD7rTi570oTf9Qo/OAPoziIEMYTDDGMoIhjOKkYxhNOMYy5+MZwJ/MYmJTGEy05jKdP5mJjOY"
    "zSzmMof5zGMhC1jMIpayhOUsYwX/8C8rWcV/rGE1a/mf9axjIxvYzCa2soXtbGMnO9jNLvayh/3s4yAHOMwhjnKE4xzjJCc4"
    "zSnOcobznOMiF7jMJa5yhetc4yY3uM0t7nKH+9zjIQ94zCOe8oTnPOMlL3jNK97yhve84yMf+MwnvvLl+/8FhwS+AbNEgkg="
)
CHARSMAP = zlib.decompress(base64.b64decode(_COMPRESSED))
"""Compiled rules of a normalizer, from SentencePiece's trainer: A becomes a, and B bc."""


def spm_model(
    pieces: Sequence[tuple[str, float, int]], *, kind: int = 1, charsmap: bytes = b"", adds_space: bool = True
) -> bytes:
    """A SentencePiece model.

    pieces: text, score and type (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte).
    kind: 1 Unigram, 2 BPE.
    """
    body = b"".join(
        message(
            1, message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(of_piece)
        )
        for text, score, of_piece in pieces
    )
    trainer = b"\x18" + varint(kind)
    if any(of_piece == 6 for _, _, of_piece in pieces):
        trainer += varint(35 << 3) + b"\x01"  # byte_fallback
    normalizer = message(1, b"x") + (message(2, charsmap) if charsmap else b"") + b"\x18" + varint(adds_space)
    return body + message(2, trainer) + message(3, normalizer)


TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

UNIGRAM = (
    *(("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁", -2.5, 1), ("a", -3.0, 1), ("b", -3.5, 1)),
    *(("▁ab", -1.25, 1), ("ab", -4.0, 4), ("x", -5.0, 5), ("\u3042", -6.5, 1)),
)
PIECES = (*UNIGRAM[:3], *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)), *UNIGRAM[3:])
ADDED = {
    "260": {"content": "<start_of_turn>", "special": True},
    "269": {"content": "a▁b", "special": False},
    "270": {"content": "<unused1>", "special": False},
}


def sentencepiece(peer: str, function: str, config: Mapping[str, Any] | None = None, **more: Any) -> Case:
    """A case of SentencePiece's BPE with added tokens."""
    return Case(
        peer,
        function,
        {
            "tokenizer.model": spm_model(PIECES, kind=2),
            "tokenizer_config.json": {"added_tokens_decoder": ADDED, "tokenizer_class": "LlamaTokenizer"}
            | more,
            "added_tokens.json": {"<late>": 271},
        },
        {"vocab_size": 273, "bos_token_id": 1, "eos_token_id": 2, **(config or {})},
    )


def pieces_json(special: Iterable[str], plain: Iterable[str]) -> dict[str, Any]:
    """A tokenizer.json of SentencePiece's kind with merges, whose added tokens are in the vocabulary."""
    added = [*((text, True) for text in special), *((text, False) for text in plain)]
    texts = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += [text for text, _ in added if text not in texts]
    texts += ["▁", "a", "b", "ab", "▁ab"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                **dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False),
                "id": texts.index(text),
                "content": text,
                "special": is_special,
            }
            for text, is_special in sorted(added, key=lambda entry: texts.index(entry[0]))
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: token for token, text in enumerate(texts)},
            "merges": [["a", "b"], ["▁", "ab"]],
        },
    }


def unigram_json(normalizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json as XLM-RoBERTa has: ids of the embeddings, and a mask behind the pieces."""
    pieces = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    pieces += [[text, score] for text, score, _ in UNIGRAM[3:]] + [["<mask>", 0.0], ["<extra>", 0.0]]
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<extra>")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                **dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False),
                "id": token,
                "content": text,
                "special": text != "<extra>",
            }
            for token, (text, _) in enumerate(pieces)
            if text in special
        ],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }


# Vocabularies of bytes with ranks


RANKED = (b"ab", b" t", b"33", b"333", b"abab", b"\xe3\x81", b"\xe3\x81\x82", b"  ", b"\n\n", b"t3")
"""Tokens behind the 256 bytes, in the order of ranks. `abab` and `333` can be cut in several ways."""

MISTRAL_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    *("[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]"),
)


def tekken_json(version: str, *, special: Sequence[str] | None = None, n_special: int = 30) -> dict[str, Any]:
    """A tekken.json of all bytes and a few tokens more, the last of which is beyond its size."""
    tokens = [*(bytes([byte]) for byte in range(256)), *RANKED]
    value: dict[str, Any] = {
        "config": {
            "pattern": r"\w+|[^\w]+",
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": n_special + len(tokens) - 1,
            "default_num_special_tokens": n_special,
            "version": version,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
    }
    if special is not None:
        value["special_tokens"] = [
            {"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(special)
        ]
    return value


TIKTOKEN_PROGRAM = """
import base64, json, types
from pathlib import Path


class Tokenizer:
    def __init__(self, directory):
        directory = Path(directory)
        settings = json.loads((directory / "tokenizer_config.json").read_text())
        (file,) = (path for path in directory.iterdir() if "tiktoken" in path.name)
        lines = (line.split() for line in file.read_bytes().splitlines())
        self.mergeable_ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        texts = {int(token): text for token, text in settings["specials"].items()}
        self.special_tokens = {text: token for token, text in texts.items()}
        self.vocab_size = len(self.mergeable_ranks) + len(texts)
        self.eos_id = self.special_tokens.get(settings.get("eos_token"))
        self.model = types.SimpleNamespace(_mergeable_ranks=self.mergeable_ranks)

    @classmethod
    def from_pretrained(cls, directory, *arguments, **settings):
        return cls(directory)

    @classmethod
    def register_for_auto_class(cls, *arguments):
        pass

    def encode(self, text, **settings):
        return []
"""
"""In the place of the program that such a checkpoint has: "specials" are the special tokens that it makes."""


def tiktoken(
    peer: str,
    function: str,
    name: str,
    pre: str,
    specials: Sequence[str],
    n_tokens: int,
    config: Mapping[str, Any] | None = None,
    differences: tuple[str, ...] = (),
    tokens: Sequence[bytes] = RANKED,
    **settings: Any,
) -> Case:
    """A case of a tiktoken vocabulary of all bytes and some tokens, with a program that reads it."""
    whole = [*(bytes([byte]) for byte in range(255, -1, -1)), *tokens]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(whole)]
    settings["specials"] = {str(len(whole) + i): text for i, text in enumerate(specials)}
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_x.Tokenizer", None]}
    settings["tokenizer_class"] = "Tokenizer"
    contents = {
        name: "".join(lines),
        "tokenizer_config.json": settings,
        "tokenization_x.py": TIKTOKEN_PROGRAM,
    }
    return Case(
        peer,
        function,
        contents,
        {"vocab_size": n_tokens, **(config or {})},
        differences,
        pre=pre,
    )


CHATGLM_PROGRAM = """
from sentencepiece import SentencePieceProcessor

SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
SPECIAL += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]


class Tokenizer:
    def __init__(self, directory):
        self.sp_model = SentencePieceProcessor(model_file=str(directory) + "/tokenizer.model")
        self.tokenizer = self

    @classmethod
    def from_pretrained(cls, directory, *arguments, **settings):
        return cls(directory)

    @classmethod
    def register_for_auto_class(cls, *arguments):
        pass

    def get_vocab(self):
        return {self._convert_id_to_token(i): i for i in range(self.sp_model.vocab_size() + len(SPECIAL))}

    def _convert_id_to_token(self, token):
        behind = token - self.sp_model.vocab_size()
        if behind >= 0:
            return SPECIAL[behind] if behind < len(SPECIAL) else ""
        return "" if token < 3 else self.sp_model.id_to_piece(token)
"""


UNMADE = (*RANKED, b"qwxy", b"qw")
"""A token that no merge makes, and one behind it."""
KIMI = ("[BOS]", "[EOS]", "<|im_end|>", *(f"<|reserved_token_{i}|>" for i in range(271, 526)))
KIMI_FILE = ("tiktoken.model", "kimi-k2", KIMI)
KIMI_SETTINGS: dict[str, Any] = {
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "added_tokens_decoder": {
        str(268 + i): {"content": text, "special": True} for i, text in enumerate(KIMI[:3])
    },
}
HUNYUAN = (
    *("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"),
    *(f"<|extra_{i}|>" for i in range(205)),
)


def mistral(
    files: Mapping[str, Any], n_tokens: int = 295, method: str = "", differences: tuple[str, ...] = ()
) -> Case:
    """A case of Mistral's own files."""
    if "tekken.json" in files:
        differences = (*differences, "scores-of-tekken")
    return Case(
        f"llama.LlamaModel{method}",
        "mistral.mistral_metadata",
        files,
        {"vocab_size": n_tokens},
        differences,
        {"is_mistral_format": False},
    )


MISTRAL_PIECES = (
    *(("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)),
    *((text, 0.0, 3) for text in MISTRAL_SPECIAL[3:] if text != "<pad>"),
    *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
    *UNIGRAM[3:],
)
PADDED_PIECES = (*MISTRAL_PIECES[:3], ("<pad>", 0.0, 3), *MISTRAL_PIECES[3:])


XLM_SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}
PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(CHARSMAP).decode()}
GEMMA4_SPECIAL = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<|channel>", "<channel|>", '<|"|>', "<|tool_call>"),
)


def framed_by_roberta(first: int, last: int) -> dict[str, Any]:
    return {
        "type": "RobertaProcessing",
        "cls": ["<s>", first],
        "sep": ["</s>", last],
        "trim_offsets": True,
        "add_prefix_space": False,
    }


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
    "phi-3": sentencepiece("phi.Phi3MiniModel", "variants.phi3_metadata"),
    "gemma": sentencepiece("gemma.GemmaModel", "variants.gemma_metadata"),
    "gemma 2": sentencepiece("gemma.Gemma2Model", "variants.gemma2_metadata"),
    "gemma 3": sentencepiece("gemma.Gemma3Model", "variants.gemma3_metadata"),
    "gemma 3n": sentencepiece(
        "gemma.Gemma3NModel", "variants.gemma3_metadata", {"vocab_size_per_layer_input": 260}
    ),
    "llama": sentencepiece("llama.LlamaModel", "variants.llama_metadata", add_prefix_space=False),
    "llama of BPE": byte_level(
        "llama.LlamaModel", "variants.llama_metadata", bpe_json(("<b>", "<e>")), {"vocab_size": 49152}
    ),
    "code llama": sentencepiece("llama.LlamaModel", "variants.llama_metadata", {"vocab_size": 32016}),
    "qwen 2": sentencepiece("qwen.Qwen2Model", "variants.sentencepiece_or_bpe_metadata"),
    "baichuan": sentencepiece("baichuan.BaichuanModel", "variants.only_sentencepiece_metadata"),
    "ernie": sentencepiece(
        "ernie.Ernie4_5Model", "variants.spaced_sentencepiece_metadata", add_prefix_space=True
    ),
    "nemotron": sentencepiece("nemotron.NemotronModel", "variants.nemotron_metadata", {"pad_token_id": 5}),
    "jamba": sentencepiece("jamba.JambaModel", "variants.jamba_metadata"),
    "gemma 4": Case(
        "gemma.Gemma4Model",
        "sentencepiece.gemma4_metadata",
        {
            "tokenizer.json": pieces_json(GEMMA4_SPECIAL, ("\n\n",)),
            "tokenizer_config.json": {
                **FAST,
                "bos_token": "<bos>",
                "eos_token": "<eos>",
                "unk_token": "<unk>",
                "pad_token": "<pad>",
            },
        },
        {"vocab_size": 271},
        differences=("types-from-tokenizer-json",),
    ),
    "xlm-roberta": Case(
        "bert.XLMRobertaModel._xlmroberta_set_vocab",
        "unigram.xlm_roberta_metadata",
        {
            "sentencepiece.bpe.model": spm_model(UNIGRAM, charsmap=CHARSMAP),
            "tokenizer.json": unigram_json(PRECOMPILED),
            "tokenizer_config.json": XLM_SETTINGS,
        },
        {"vocab_size": 12, "type_vocab_size": 1},
        attributes={"model_arch": "BERT"},
    ),
    "xlm-roberta of tokenizer.json": Case(
        "bert.XLMRobertaModel._xlmroberta_set_vocab",
        "unigram.xlm_roberta_metadata",
        {"tokenizer.json": unigram_json(PRECOMPILED), "tokenizer_config.json": XLM_SETTINGS},
        {"vocab_size": 15, "type_vocab_size": 1},
        attributes={"model_arch": "BERT"},
    ),
    "nomic moe": Case(
        "bert.NomicBertModel._xlmroberta_set_vocab",
        "unigram.nomic_metadata",
        {
            "sentencepiece.bpe.model": spm_model(UNIGRAM, charsmap=CHARSMAP),
            "tokenizer.json": unigram_json(PRECOMPILED),
            "tokenizer_config.json": XLM_SETTINGS,
        },
        {"vocab_size": 250048, "type_vocab_size": 1, "moe_every_n_layers": 2},
        attributes={"model_arch": "NOMIC_BERT_MOE"},
    ),
    "chatglm 3": Case(
        "chatglm.ChatGLMModel.set_vocab_chatglm3",
        "chatglm.chatglm3_metadata",
        {
            "tokenizer.model": spm_model(PIECES, kind=2),
            "tokenization_x.py": CHATGLM_PROGRAM,
            "tokenizer_config.json": {
                "auto_map": {"AutoTokenizer": ["tokenization_x.Tokenizer", None]},
                "tokenizer_class": "Tokenizer",
            },
        },
        {"vocab_size": 290, "padded_vocab_size": 290, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "kimi k2": tiktoken(
        "deepseek.DeepseekV2Model",
        "tiktoken.kimi_metadata",
        *KIMI_FILE,
        300,
        {"bos_token_id": 268, "eos_token_id": 270, "pad_token_id": 299},
        tokens=UNMADE,
        **KIMI_SETTINGS,
    ),
    "kimi linear": tiktoken(
        "kimi_linear.KimiLinearModel",
        "tiktoken.kimi_linear_metadata",
        *KIMI_FILE,
        600,
        {"bos_token_id": 268, "eos_token_id": 270},
        tokens=UNMADE,
        **KIMI_SETTINGS,
    ),
    "hunyuan moe": tiktoken(
        "hunyuan.HunYuanMoEModel",
        "tiktoken.hunyuan_metadata",
        "hy.tiktoken",
        "hunyuan",
        HUNYUAN,
        478,
        {"bos_token_id": 1, "eos_token_id": 271, "pad_token_id": 272},
        ("special-id-beyond-vocabulary",),
        tokens=UNMADE,
    ),
    "tekken v3": mistral({"tekken.json": tekken_json("v3")}),
    "tekken v7": mistral({"tekken.json": tekken_json("v7", special=MISTRAL_SPECIAL)}),
    "tekken v11": mistral({"tekken.json": tekken_json("v11", special=MISTRAL_SPECIAL)}),
    "tekken v13": mistral({"tekken.json": tekken_json("v13", special=MISTRAL_SPECIAL)}),
    "tekken before sentencepiece": mistral(
        {"tekken.json": tekken_json("v3"), "tokenizer.model.v3": spm_model(MISTRAL_PIECES, kind=2)}
    ),
    "tekken, padded": mistral(
        {"tekken.json": tekken_json("v7")}, 300, differences=("padding-of-tokenizer-json",)
    ),
    "tekken with a template": mistral(
        {"tekken.json": tekken_json("v3"), "chat_template.jinja": TEMPLATE},
        differences=("chat-template-file",),
    ),
    **{
        f"mistral sentencepiece {name}": mistral(
            {"tokenizer.model" + suffix: spm_model(pieces, kind=2)},
            len(pieces),
            "._set_vocab_mistral",
        )
        for name, suffix, pieces in (
            ("v1", "", PIECES),
            ("v3", ".v3", MISTRAL_PIECES),
            ("v7", ".v7", MISTRAL_PIECES),
            ("v7 with images", ".v7m1", PADDED_PIECES),
        )
    },
    "mistral of two versions": mistral(
        {
            "tokenizer.model.v1": spm_model(PIECES, kind=2),
            "tokenizer.model.v3": spm_model(MISTRAL_PIECES, kind=2),
        },
        len(MISTRAL_PIECES),
        "._set_vocab_mistral",
    ),
    "t5": Case(
        "t5.T5Model",
        "unigram.t5_metadata",
        {
            "spiece.model": spm_model(UNIGRAM, charsmap=CHARSMAP, adds_space=False),
            "added_tokens.json": {"<x>": 11},
        },
        {"vocab_size": 14, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "t5 of BPE": sentencepiece("t5.T5Model", "unigram.t5_metadata"),
    "roberta": byte_level(
        "bert.RobertaModel",
        "unigram.roberta_metadata",
        bpe_json(("<s>", "</s>"), split=GPT2, post_processor=framed_by_roberta(262, 263)),
        {"type_vocab_size": 1},
        bos_token="<s>",
        eos_token="</s>",
    ),
    "jina v2 of words": byte_level(
        "bert.JinaBertV2Model",
        "unigram.jina_v2_metadata",
        bpe_json(("<s>", "</s>", "<unk>", "<pad>", "<mask>"), pre_tokenizer={"type": "Whitespace"}),
        tokenizer_class="RobertaTokenizer",
    ),
}
