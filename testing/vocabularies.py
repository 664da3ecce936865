"""GGUF files that hold a tokenizer and nothing else, made to show where a text is cut."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, f32, string, u32
from gguflow.container.writer import build
from gguflow.models.tokenizers.encoding.byte_letters import byte_letters
from gguflow.models.tokenizers.vocabulary import TokenType

TEXTS = {
    "empty": "",
    "a space": " ",
    "spaces": "  ",
    "newline": "\n",
    "white space": "\n\n \n\t x",
    "long white space": "x" + " " * 23 + "y" + "\t" * 9 + " \n\n  z ",
    "words": "Hello  world   ",
    "code": "def f(n):\n    return n+1\n\n\nclass A:\n\tpass\r\n\r\n",
    "returns": "\r\r\n \r\r\n  \n x\u00a0\u00a0y",
    "Latin": "naïve café ﬁ Ω≈ç√∫˜µ",  # noqa: RUF001
    "Japanese": "日本語のテスト 12345 １２３",  # noqa: RUF001
    "emoji": "🙂🫠👩\u200d👩\u200d👧 x🇩🇪",
    "control": "\x00\x01\x02\x7f\x1c\x1d \x85 \xa0\u3000\u2028x",
    "contractions": "don't I'LL we'Ve 'S '\u017f it'sss 'RE'd",
    "special": "</s><s>hello<unk> </s> x",
    "chat": "<|im_start|>user\nhi<|im_end|> <tool_call>x<|looks_special|>",
    "ends": "x <|endoftext|>y<|begin_of_text|><|end_of_text|>",
    "numbers": "1234567890 3.14 1e-5 ½ ²",
    "a run": "a" * 300,
    "marks": "é" * 20 + "e\u0301\u0301",
    "directions": "\u202eabc\ufeff",
    "unassigned": "\U0001fae8 \U000e0001 \ue000\ue001 \uffff",
    "cases": "ǅ ǈ ʰ ª ᾈ ءَ HTTPServer camelCase ÉCOLE École",
    "scripts": "हिन्दी ไทย עברית",
    "SentencePiece's space": "▁▁x ▁",
    "punctuation": "!!!???...\n\n//=-+ $$$ ^^^ `~|",
    "spelt bytes": "<0x0A> <0xff>",
}
"""Texts on which tokenizers have differed."""

_ALPHABET = (
    " \n\r\t'aAzZsSdDlrevm019.,!?-_#$+<>^~|/()[]{}"
    "éßÑǅʰªΩжЖ中文한ぁァ½²٣ि\u0301\u200d🙂\x85\xa0\u3000\x1c\x00\ufeff§€¿，。"  # noqa: RUF001
)


def random_texts(n: int) -> list[str]:
    """Characters of every category, next to each other as no author would put them."""
    rng = random.Random(0)
    return ["".join(rng.choices(_ALPHABET, k=rng.randint(1, 60))) for _ in range(n)]


def byte_level_file(path: Path, pre: str) -> Path:
    """A byte-level vocabulary of all bytes and nearly all pairs of those that the texts are made of: two that
    are not cut apart are merged.
    """
    letters = byte_letters()
    used = sorted({byte for text in (*TEXTS.values(), _ALPHABET) for byte in text.encode("utf-8")})
    pairs = [letters[a] + " " + letters[b] for a, b in itertools.product(used, used)]
    merges = random.Random(1).sample(pairs, len(pairs) * 9 // 10)
    special = ["<|im_start|>", "<|im_end|>", "<tool_call>", "<|endoftext|>"]
    tokens = [*letters.values(), *(merge.replace(" ", "") for merge in merges), *special]
    types = [TokenType.NORMAL] * (len(tokens) - len(special)) + [
        TokenType.CONTROL,
        TokenType.NORMAL,
        TokenType.USER_DEFINED,
        TokenType.CONTROL,
    ]
    metadata: Metadata = {
        "general.architecture": string("llama"),
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string(pre),
        "tokenizer.ggml.tokens": array(ValueType.STRING, tokens),
        "tokenizer.ggml.token_type": array(ValueType.INT32, [int(kind) for kind in types]),
        "tokenizer.ggml.merges": array(ValueType.STRING, merges),
        "tokenizer.ggml.bos_token_id": u32(len(tokens) - 1),
        "llama.block_count": u32(1),
        "llama.context_length": u32(64),
        "llama.embedding_length": u32(32),
        "llama.feed_forward_length": u32(32),
        "llama.attention.head_count": u32(1),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
    }
    path.write_bytes(build(metadata, ()))
    return path
