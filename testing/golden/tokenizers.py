"""Tiny tokenizers of every kind, with the bytes that real ones would have the form of.

A recipe's "tokenizer" is {"kind": KIND, ...}; kinds and their settings are the functions' below. Every kind
takes "config", which is laid over its tokenizer_config.json (a null removes a key), and has about 320 tokens,
so that a vocabulary of 331 has holes to fill. Ids that recipes name in config.json: `ids`.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

Files = dict[str, Any]

N_TOKENS = 320

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "was",
    "on",
    "with",
    "as",
    "be",
    "at",
    "by",
    "this",
    "had",
    "not",
    "are",
    "but",
    "from",
    "or",
    "have",
    "an",
    "they",
    "which",
    "one",
    "you",
    "were",
    "her",
    "all",
    "she",
    "there",
    "would",
    "their",
    "we",
    "him",
    "been",
    "has",
    "when",
    "who",
    "will",
    "more",
    "no",
    "if",
    "out",
    "so",
    "said",
    "what",
    "up",
    "its",
    "about",
    "into",
    "than",
    "them",
    "can",
    "only",
    "other",
    "new",
    "some",
    "could",
    "time",
    "these",
    "two",
    "may",
    "then",
    "do",
    "first",
    "any",
    "my",
    "now",
    "such",
]

SPECIAL = (
    *(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
        "[gMASK]",
    ),
    *("<sop>", "<|system|>", "<|eot|>", "<|eot_id|>", "<|endofassistant|>", "<|mask|>", "<|pad|>", "<|eom|>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|begin_of_text|>", "<|end_of_text|>"),
)
"""Of byte-level BPE, control tokens."""
PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Added tokens that are not special."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama3": _CONTRACTIONS + r"|\p{N}{1,3}" + _REST, "qwen2": _CONTRACTIONS + r"|\p{N}" + _REST}


def files(tokenizer: dict[str, Any]) -> Files:
    """A tokenizer's files by name: bytes, text, or what becomes JSON.

    tokenizer: of a recipe.
    """
    settings = dict(tokenizer)
    kind = settings.pop("kind")
    overlay = settings.pop("config", {})
    made = KINDS[kind](**settings)
    if overlay:
        config = {**made.get("tokenizer_config.json", {}), **overlay}
        made["tokenizer_config.json"] = {key: value for key, value in config.items() if value is not None}
    return made


def ids(kind: str, order: str = "llama") -> dict[str, int]:
    """Ids of the tokens that begin, end and fill texts, for config.json.

    kind: of `KINDS`.
    order: of the first pieces, for kinds that have the setting.
    """
    if kind == "bpe":
        start = N_TOKENS - len(SPECIAL) - len(PLAIN)
        names = {"bos": "<|begin_of_text|>", "eos": "<|im_end|>", "pad": "<|pad|>"}
        return {f"{key}_token_id": start + SPECIAL.index(text) for key, text in names.items()}
    if kind == "wordpiece":
        return {"pad_token_id": 0}
    if kind == "unigram":
        return {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    if kind == "t5":
        return {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    if kind in ("spm", "llama-hf"):
        first = _ORDERS[order]
        return {
            f"{key}_token_id": first.index(text)
            for key, text in {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>"}.items()
            if text in first
        } or {"bos_token_id": 1, "eos_token_id": 2}
    return {}


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def _merges(words: Iterable[str], n: int) -> list[tuple[str, str]]:
    """The first n merges that build the words from the left, each once."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    return list(merges)[:n]


def bpe(split: str = "llama3", bos: bool = False, template: str | None = TEMPLATE) -> Files:
    """Byte-level BPE.

    split: "llama3", "qwen2" or "gpt2": where texts are cut.
    bos: whether texts begin with <|begin_of_text|>.
    template: for chats.
    """
    added = [*SPECIAL, *PLAIN]
    merges = _merges(("\u0120" + word for word in WORDS), N_TOKENS - 256 - len(added))
    tokens = [*byte_letters(), *("".join(pair) for pair in merges)]
    first = len(tokens)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    if split == "gpt2":
        pre_tokenizer: dict[str, Any] = {**byte_level, "use_regex": True}
    else:
        cut = {
            "type": "Split",
            "pattern": {"Regex": _SPLITS[split]},
            "behavior": "Isolated",
            "invert": False,
        }
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [cut, byte_level]}
    start = "<|begin_of_text|>"
    post: dict[str, Any] = {**byte_level, "add_prefix_space": True}
    if bos:
        begin = {"SpecialToken": {"id": start, "type_id": 0}}
        rest = {"Sequence": {"id": "A", "type_id": 0}}
        special = {"id": start, "ids": [first + SPECIAL.index(start)], "tokens": [start]}
        post = {
            "type": "TemplateProcessing",
            "single": [begin, rest],
            "pair": [begin, rest, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {start: special},
        }
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added(first + i, text, text in SPECIAL) for i, text in enumerate(added)],
            "normalizer": None,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": split == "llama3",
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": [list(pair) for pair in merges],
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": start,
            "eos_token": "<|im_end|>",
            "pad_token": "<|pad|>",
            "clean_up_tokenization_spaces": False,
            **({} if template is None else {"chat_template": template}),
        },
    }


def _added(index: int, text: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, **flags, "special": special}


_ORDERS = {"llama": ("<unk>", "<s>", "</s>"), "gemma": ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")}
_UNKNOWN, _CONTROL, _NORMAL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 1, 4, 5, 6


def _pieces(order: str) -> tuple[list[tuple[str, float, int]], list[tuple[str, str]]]:
    """(text, score, kind) of SentencePiece's BPE, and the merges behind the normal pieces."""
    first = [(text, 0.0, _UNKNOWN if text == "<unk>" else _CONTROL) for text in _ORDERS[order]]
    users = (
        ("<start_of_turn>", "<end_of_turn>", "\u2581\u2581", "\n\n")
        if order == "gemma"
        else ("\u2581\u2581\u2581",)
    )
    first += [(text, 0.0, _USER_DEFINED) for text in users]
    first += [("<unused0>", 0.0, _UNUSED)] if order == "gemma" else []
    first += [(f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)]
    letters = sorted({"\u2581", *"".join(WORDS[:20])})
    merges = _merges(("\u2581" + word for word in WORDS), N_TOKENS - len(first) - len(letters))
    texts = ["".join(pair) for pair in merges] + letters
    return [*first, *((text, -float(i), _NORMAL) for i, text in enumerate(texts))], merges


def spm(order: str = "llama", template: str | None = TEMPLATE, bos: bool | None = None) -> Files:
    """SentencePiece's BPE in tokenizer.model.

    order: "llama" or "gemma": which pieces are the first.
    template: for chats.
    bos: add_bos_token of tokenizer_config.json, None to leave it out.
    """
    pieces, _ = _pieces(order)
    model = sentencepiece_model(pieces, model_type=2, add_dummy_prefix=order == "llama")
    return {"tokenizer.model": model, "tokenizer_config.json": _spm_config(order, template, bos)}


def _spm_config(order: str, template: str | None, bos: bool | None) -> dict[str, Any]:
    begin, end = ("<s>", "</s>") if order == "llama" else ("<bos>", "<eos>")
    return {
        "tokenizer_class": "LlamaTokenizer" if order == "llama" else "GemmaTokenizer",
        "bos_token": begin,
        "eos_token": end,
        "unk_token": "<unk>",
        **({} if order == "llama" else {"pad_token": "<pad>"}),
        **({} if bos is None else {"add_bos_token": bos}),
        **({} if template is None else {"chat_template": template}),
        "added_tokens_decoder": {
            "1": {"content": _ORDERS[order][1], "special": True},
            str(N_TOKENS): {"content": "<|im_start|>", "special": True},
            str(N_TOKENS + 1): {"content": "two\u2581words", "special": False},
        },
    }


def llama_hf(order: str = "llama", template: str | None = TEMPLATE, added: Iterable[str] = ()) -> Files:
    """SentencePiece's BPE as tokenizer.json alone, with byte fallback.

    order, template: as of `spm`.
    added: further special tokens, after the others.
    """
    pieces, merges = _pieces(order)
    tokens = [text for text, _, _ in pieces]
    merges = [pair for pair in merges if {*pair} <= {*tokens}]
    special = [(i, text) for i, (text, _, kind) in enumerate(pieces) if kind in (_CONTROL, _UNKNOWN)]
    special += [(len(tokens) + i, text) for i, text in enumerate(added)]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    normalizers = [{"type": "Prepend", "prepend": "\u2581"}, space] if order == "llama" else [space]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if order == "llama":
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    begin, end = ("<s>", "</s>") if order == "llama" else ("<bos>", "<eos>")
    return {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [_added(i, text, True) for i, text in special],
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": begin, "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [
                    {"SpecialToken": {"id": begin, "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": begin, "type_id": 1}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {begin: {"id": begin, "ids": [tokens.index(begin)], "tokens": [begin]}},
            },
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": "<unk>",
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": [list(pair) for pair in merges],
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": begin,
            "eos_token": end,
            "unk_token": "<unk>",
            **({"pad_token": "<pad>"} if order == "gemma" else {}),
            **({} if template is None else {"chat_template": template}),
        },
    }


def wordpiece() -> Files:
    """BERT's, in tokenizer.json and vocab.txt."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    symbols = list("!\"#$%&'()*+,-./0123456789:;<=>?@")
    endings = ["ing", "ed", "er", "ly", "tion", "s", "es", "ness", "able", "ment"]
    tokens = [*special, *symbols, *letters, *(f"##{x}" for x in [*letters, *endings]), *WORDS]
    tokens = list(dict.fromkeys(tokens))
    tokens += [f"w{i}" for i in range(N_TOKENS - len(tokens))]
    cls, sep = ({"SpecialToken": {"id": text, "type_id": 0}} for text in ("[CLS]", "[SEP]"))
    later = {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "vocab.txt": "\n".join(tokens) + "\n",
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added(i, text, True) for i, text in enumerate(special)],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [cls, a, sep],
                "pair": [cls, a, sep, b, later],
                "special_tokens": {
                    text: {"id": text, "ids": [special.index(text)], "tokens": [text]}
                    for text in ("[CLS]", "[SEP]")
                },
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {token: i for i, token in enumerate(tokens)},
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
        },
    }


def _unigram_pieces(n: int) -> list[tuple[str, float]]:
    letters = sorted({*"".join(WORDS), "\u2581"})
    words = [f"\u2581{word}" for word in WORDS]
    pairs = [a + b for a in letters[:20] for b in letters[:12] if a != "\u2581"]
    texts = list(dict.fromkeys([*letters, *words, *pairs]))[:n]
    return [(text, -2.5 - i * 0.03125) for i, text in enumerate(texts)]


CHARSMAP = zlib.decompress(
    base64.b85decode(
        b"c-ke>WssIt7zW^%51C;ArG^seQdmkrI+jj@Zlo3|>8_<=m2QxdhGkGfX@Lc$B?J`d?(V*TGjq*z|2Q*e&OCSULEyv+"
        b"!i&WY_J)Oms5C(kCkP^=<A#EPLP&NYa;_X-h{uN{AR!--m_#Hc3CY;_AQYr9laq>+q~>Eh5qv^A(vpGnWFjM3$V@h}"
        b"@)@6!gY4uajNIfRFL}tv=M*461^I%)6rw0aC{8g-Qi5<wQHIi#qbwCDPbDf+h00W;Dqry>-|#gxs7@_vQis~qqb?1o"
        b"Pa_)AgvK=GTbk31mb9Q15wzwz+R}#hw4(#x(}|9Bp)=j+N)Nizi=OnMH~r|#0Qxg9c)#Sq3}Prl7|t+8GJ+q7ViZ3z"
        b"hS7{;EE5>dBqlP2$xLG^GnmdyequJWn9CgI@iPmU&mtDGgvBglDa(mw1-BLJSMwKEv63~c=68N$9c$UZdN#f7Cx5V+"
        b"t!yENZR}t>fAJ@~*vTGtvyZ*}&3+DYfWsW(2>)=5qx{Fe{LgVta)Q&G;w)!4&p9q~fy-RtDp$D9HEwd_?cce@UG8w7"
        b"dpzU;k9ovXp75M!yyOM1dG)UU5v_xm1;HD6Yl%_"
    )
)
"""A precompiled map of three characters (the angstrom sign, the ligature fi and the full-width A), as
SentencePiece 0.2.3 compiles it.
"""


def unigram(model: bool = True, json_file: bool = True) -> Files:
    """XLM-RoBERTa's.

    model: whether there is sentencepiece.bpe.model.
    json_file: whether there is tokenizer.json.
    """
    inner = _unigram_pieces(N_TOKENS - 5)
    made: Files = {}
    if model:
        pieces = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
        pieces += [(text, score, _NORMAL) for text, score in inner]
        made["sentencepiece.bpe.model"] = sentencepiece_model(
            pieces, model_type=1, add_dummy_prefix=True, charsmap=CHARSMAP
        )
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": N_TOKENS - 1}
    if json_file:
        first = [[text, 0.0] for text in ("<s>", "<pad>", "</s>", "<unk>")]
        vocab = [*first, *([text, score] for text, score in inner), ["<mask>", 0.0]]
        begin, end = ({"SpecialToken": {"id": text, "type_id": 0}} for text in ("<s>", "</s>"))
        a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        made["tokenizer.json"] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added(i, text, True) for text, i in special.items()],
            "normalizer": {
                "type": "Precompiled",
                "precompiled_charsmap": base64.b64encode(CHARSMAP).decode(),
            },
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "WhitespaceSplit"},
                    {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
                ],
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [begin, a, end],
                "pair": [begin, a, end, end, b, end],
                "special_tokens": {
                    text: {"id": text, "ids": [special[text]], "tokens": [text]} for text in ("<s>", "</s>")
                },
            },
            "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab},
        }
    made["tokenizer_config.json"] = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": {**_added(0, "<mask>", True), "__type": "AddedToken", "lstrip": True},
        "clean_up_tokenization_spaces": True,
    }
    del made["tokenizer_config.json"]["mask_token"]["id"]
    return made


def t5(file: str = "spiece.model") -> Files:
    """T5's Unigram model.

    file: its name.
    """
    pieces = [("<pad>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL), ("<unk>", 0.0, _UNKNOWN)]
    pieces += [(text, score, _NORMAL) for text, score in _unigram_pieces(N_TOKENS - len(pieces))]
    return {
        file: sentencepiece_model(pieces, model_type=1, add_dummy_prefix=True, charsmap=CHARSMAP),
        "tokenizer_config.json": {
            "tokenizer_class": "T5Tokenizer",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
        },
    }


def none() -> Files:
    """No tokenizer."""
    return {}


KINDS: dict[str, Callable[..., Files]] = {
    "bpe": bpe,
    "spm": spm,
    "llama-hf": llama_hf,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "t5": t5,
    "none": none,
}


def sentencepiece_model(
    pieces: Iterable[tuple[str, float, int]],
    *,
    model_type: int,
    add_dummy_prefix: bool,
    charsmap: bytes = b"",
) -> bytes:
    """A ModelProto of SentencePiece.

    pieces: (text, score, type).
    model_type: 1 Unigram, 2 BPE.
    add_dummy_prefix: whether a text begins with a space.
    charsmap: precompiled_charsmap.
    """
    pieces = list(pieces)
    ids = {text: i for i, (text, _, _) in enumerate(pieces)}
    out = b""
    for text, score, kind in pieces:
        piece = _bytes_field(1, text.encode()) + _tag(2, 5) + struct.pack("<f", score)
        out += _bytes_field(1, piece + (b"" if kind == _NORMAL else _int_field(3, kind)))
    trainer = _int_field(3, model_type) + _int_field(4, len(pieces)) + _int_field(35, model_type == 2)
    for field, names in ((40, ["<unk>"]), (41, ["<s>", "<bos>"]), (42, ["</s>", "<eos>"]), (43, ["<pad>"])):
        found = next((ids[name] for name in names if name in ids), -1)
        trainer += _int_field(field, found)
    normalizer = _bytes_field(1, b"identity" if not charsmap else b"nmt_nfkc")
    normalizer += _bytes_field(2, charsmap) if charsmap else b""
    normalizer += _int_field(3, add_dummy_prefix) + _int_field(4, False) + _int_field(5, True)
    return out + _bytes_field(2, trainer) + _bytes_field(3, normalizer)


def _varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _int_field(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(int(value))


def _bytes_field(field: int, data: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(data)) + data
