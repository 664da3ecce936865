"""Cases about what the metadata means: a small Llama, and what can be wrong with it; shards."""

from __future__ import annotations

from collections.abc import Mapping

from testing.corpus.bytes import ARCHITECTURE, F32, I32, STRING, U16, U32, U64, Tensor, array, gguf, key_value
from testing.corpus.case import Case, invalid, valid

HIDDEN, WIDE, N_HEADS, N_KV_HEADS = 32, 32, 2, 1
TOKENS = ["<unk>", "<s>", "</s>", "<0x41>", "▁a", "b", "c", "d"]
KEYS: dict[str, bytes] = {
    "general.architecture": key_value("general.architecture", STRING, "llama"),
    "general.file_type": key_value("general.file_type", U32, 7),
    "general.quantization_version": key_value("general.quantization_version", U32, 2),
    **{
        f"llama.{name}": key_value(f"llama.{name}", U32, value)
        for name, value in {
            "block_count": 1,
            "context_length": 64,
            "embedding_length": HIDDEN,
            "feed_forward_length": WIDE,
            "attention.head_count": N_HEADS,
            "attention.head_count_kv": N_KV_HEADS,
            "vocab_size": len(TOKENS),
        }.items()
    },
    "llama.attention.layer_norm_rms_epsilon": key_value("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
    "tokenizer.ggml.model": key_value("tokenizer.ggml.model", STRING, "llama"),
    "tokenizer.ggml.tokens": array("tokenizer.ggml.tokens", STRING, TOKENS),
    "tokenizer.ggml.scores": array("tokenizer.ggml.scores", F32, [0.0] * len(TOKENS)),
    "tokenizer.ggml.token_type": array("tokenizer.ggml.token_type", I32, [2, 3, 3, 6, 1, 1, 1, 1]),
    "tokenizer.ggml.bos_token_id": key_value("tokenizer.ggml.bos_token_id", U32, 1),
    "tokenizer.ggml.eos_token_id": key_value("tokenizer.ggml.eos_token_id", U32, 2),
}
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "token_embd.weight": ((HIDDEN, len(TOKENS)), 8),
    "output_norm.weight": ((HIDDEN,), 0),
    "blk.0.attn_norm.weight": ((HIDDEN,), 0),
    "blk.0.attn_q.weight": ((HIDDEN, HIDDEN), 8),
    "blk.0.attn_k.weight": ((HIDDEN, 16), 8),
    "blk.0.attn_v.weight": ((HIDDEN, 16), 8),
    "blk.0.attn_output.weight": ((HIDDEN, HIDDEN), 8),
    "blk.0.ffn_norm.weight": ((HIDDEN,), 0),
    "blk.0.ffn_gate.weight": ((HIDDEN, WIDE), 8),
    "blk.0.ffn_up.weight": ((HIDDEN, WIDE), 8),
    "blk.0.ffn_down.weight": ((WIDE, HIDDEN), 8),
}


def llama(
    keys: Mapping[str, bytes | None] | None = None,
    shapes: Mapping[str, tuple[tuple[int, ...], int] | None] | None = None,
) -> bytes:
    """The small Llama with keys and tensors replaced, added, or (None) left out."""
    metadata = [value for value in {**KEYS, **(keys or {})}.values() if value is not None]
    tensors = [
        Tensor(name, *shape) for name, shape in {**SHAPES, **(shapes or {})}.items() if shape is not None
    ]
    return gguf(metadata, tensors)


def hyper(name: str, value: int, kind: int = U32) -> dict[str, bytes]:
    return {f"llama.{name}": key_value(f"llama.{name}", kind, value)}


def tokenizer(name: str, value: bytes | None) -> dict[str, bytes | None]:
    return {f"tokenizer.ggml.{name}": value}


def token_id(name: str, value: int, kind: int = U32) -> dict[str, bytes]:
    return {f"tokenizer.ggml.{name}_token_id": key_value(f"tokenizer.ggml.{name}_token_id", kind, value)}


CHAT = "tokenizer.chat_template"

MODEL: list[Case] = [
    valid("llama", "", llama(), level="strict"),
    valid(
        "V16-wide-integers",
        "V17",
        llama(hyper("block_count", 1, U64) | hyper("embedding_length", HIDDEN, U16)),
        note="readers widen",
    ),
    invalid("V16-no-heads", "V16", llama(hyper("attention.head_count", 0)), "G-004"),
    invalid("V16-block-count-0", "V16", llama(hyper("block_count", 0)), "G-004"),
    invalid(
        "V16-block-count-10-9",
        "V16",
        llama(hyper("block_count", 10**9)),
        "G-004",
        note="a fixed array of layers was written past its end",
    ),
    invalid("V16-heads-do-not-divide", "V16", llama(hyper("attention.head_count_kv", 3)), "G-004"),
    invalid("V16-negative", "V16", llama(hyper("context_length", -1, I32)), "G-004"),
    invalid(
        "V16-head-count-string",
        "V16",
        llama({"llama.block_count": key_value("llama.block_count", STRING, "1")}),
        "G-004",
    ),
    invalid(
        "V16-epsilon-negative",
        "V16",
        llama(
            {
                "llama.attention.layer_norm_rms_epsilon": key_value(
                    "llama.attention.layer_norm_rms_epsilon", F32, -1.0
                )
            }
        ),
        "G-004",
    ),
    valid("V18-no-architecture", "V18", llama({"general.architecture": None}), "G-001"),
    invalid("V18-no-block-count", "V18", llama({"llama.block_count": None}), "G-003"),
    invalid("V18-no-epsilon", "V18", llama({"llama.attention.layer_norm_rms_epsilon": None}), "G-003"),
    invalid(
        "V18-no-tokens",
        "V18",
        llama(tokenizer("tokens", None) | tokenizer("scores", None) | tokenizer("token_type", None)),
        "G-010",
    ),
    invalid(
        "V19-scores-too-short",
        "V19",
        llama(tokenizer("scores", array("tokenizer.ggml.scores", F32, [0.0] * 7))),
        "G-012",
    ),
    invalid(
        "V19-token-type-too-long",
        "V19",
        llama(tokenizer("token_type", array("tokenizer.ggml.token_type", I32, [1] * 9))),
        "G-012",
    ),
    invalid(
        "V20-scores-of-i32",
        "V20",
        llama(tokenizer("scores", array("tokenizer.ggml.scores", I32, [0] * 8))),
        "G-011",
    ),
    invalid(
        "V20-token-type-of-u8",
        "V20",
        llama(tokenizer("token_type", array("tokenizer.ggml.token_type", 0, [1] * 8))),
        "G-011",
    ),
    invalid(
        "V20-tokens-of-i32",
        "V20",
        llama(tokenizer("tokens", array("tokenizer.ggml.tokens", I32, [1] * 8))),
        "G-011",
    ),
    invalid("V21-bos-is-vocabulary", "V21", llama(token_id("bos", 8)), "G-013"),
    invalid("V21-eos-negative", "V21", llama(token_id("eos", -1, I32)), "G-013"),
    valid("V21-last-token", "V21", llama(token_id("eos", 7))),
    invalid("V21-padding-all-ones", "V21", llama(token_id("padding", 2**32 - 1)), "G-013"),
    valid(
        "V21-default-outside",
        "V21",
        gguf(
            [
                ARCHITECTURE,
                key_value("tokenizer.ggml.model", STRING, "llama"),
                array("tokenizer.ggml.tokens", STRING, ["a", "b"]),
            ]
        ),
        "G-013",
    ),
    invalid(
        "V22-byte-token-minus-1",
        "V22",
        llama(
            tokenizer("tokens", array("tokenizer.ggml.tokens", STRING, [*TOKENS[:3], "<0x-1>", *TOKENS[4:]]))
        ),
        "G-014",
    ),
    invalid(
        "V22-byte-token-g0",
        "V22",
        llama(
            tokenizer("tokens", array("tokenizer.ggml.tokens", STRING, [*TOKENS[:3], "<0xG0>", *TOKENS[4:]]))
        ),
        "G-014",
    ),
    valid(
        "V23-duplicate-tokens",
        "V23",
        llama(tokenizer("tokens", array("tokenizer.ggml.tokens", STRING, [*TOKENS[:6], "b", "b"]))),
        "G-016",
        level="strict",
    ),
    valid(
        "V24-chat-template",
        "V24",
        llama({CHAT: key_value(CHAT, STRING, "{% for m in messages %}{{ m.content }}\n{% endfor %}")}),
    ),
    valid(
        "V24-chat-template-with-dunder",
        "V24",
        llama({CHAT: key_value(CHAT, STRING, "{{ ''.__class__.__mro__ }}")}),
        "G-017",
    ),
    invalid("V24-chat-template-integer", "V24", llama({CHAT: key_value(CHAT, U32, 1)}), "G-017"),
    invalid(
        "model-name-integer",
        "",
        llama(tokenizer("model", key_value("tokenizer.ggml.model", U32, 1))),
        "G-010",
    ),
    invalid("block-count-too-large", "", llama(hyper("block_count", 2)), "G-005"),
    invalid(
        "block-count-too-small",
        "",
        llama(hyper("block_count", 1), {"blk.1.attn_norm.weight": ((HIDDEN,), 0)}),
        "G-005",
    ),
    invalid("missing-tensor", "", llama(shapes={"blk.0.ffn_up.weight": None}), "G-006"),
    valid("unknown-tensor", "", llama(shapes={"blk.0.surprise.weight": ((32,), 0)}), "G-006"),
    invalid(
        "D12-shape-against-hyper-parameters",
        "D12",
        llama(shapes={"blk.0.attn_q.weight": ((HIDDEN, 64), 8)}),
        "G-007",
    ),
    invalid(
        "vocabulary-against-embedding", "", llama(shapes={"token_embd.weight": ((HIDDEN, 9), 8)}), "G-007"
    ),
    valid("rope-factors", "", llama(shapes={"rope_freqs.weight": ((8,), 0)})),
    valid("vocabulary-only", "", gguf(list(KEYS.values()))),
    valid(
        "unknown-architecture",
        "",
        llama({"general.architecture": key_value("general.architecture", STRING, "brand-new")}),
    ),
    valid(
        "architecture-in-capitals",
        "",
        llama({"general.architecture": key_value("general.architecture", STRING, "LLaMA")}),
        "G-001",
    ),
    invalid(
        "file-type-string",
        "",
        llama({"general.file_type": key_value("general.file_type", STRING, "Q8_0")}),
        "G-008",
    ),
]


def shard(
    number: int,
    count: int,
    total: int,
    tensors: list[Tensor],
    kinds: tuple[int, int, int] = (U16, U16, I32),
    metadata: bytes = ARCHITECTURE,
) -> bytes:
    values = zip(
        ("split.no", "split.count", "split.tensors.count"), kinds, (number, count, total), strict=True
    )
    keys = [key_value(*value) for value in values]
    return gguf([metadata, *keys] if number == 0 else keys, tensors)


A, B, C = Tensor("a"), Tensor("b"), Tensor("c")
FIRST, SECOND = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"
GOOD_FIRST, GOOD_SECOND = shard(0, 2, 2, [A]), shard(1, 2, 2, [B])

SHARDS: list[Case] = [
    valid("shards", "", GOOD_FIRST, name=FIRST, siblings={SECOND: GOOD_SECOND}),
    valid(
        "S05-second-shard",
        "S05",
        GOOD_SECOND,
        name=SECOND,
        siblings={FIRST: GOOD_FIRST},
        note="judged by itself: the first speaks for the set",
    ),
    invalid("S01-shard-missing", "S01", GOOD_FIRST, "C-043", name=FIRST),
    invalid("S01-shard-cut", "S01", GOOD_FIRST, "C-043", name=FIRST, siblings={SECOND: GOOD_SECOND[:60]}),
    invalid(
        "S02-count-differs", "S02", GOOD_FIRST, "C-044", name=FIRST, siblings={SECOND: shard(1, 3, 2, [B])}
    ),
    invalid(
        "S02-count-against-name",
        "S02",
        shard(0, 3, 2, [A]),
        "C-042",
        name=FIRST,
        siblings={SECOND: GOOD_SECOND},
    ),
    invalid(
        "S03-number-from-1",
        "S03",
        shard(1, 2, 2, [A]),
        "C-042",
        name=FIRST,
        siblings={SECOND: GOOD_SECOND},
        note="0-based inside, 1-based in the name",
    ),
    invalid(
        "S03-number-is-count",
        "S03",
        shard(2, 2, 2, [B]),
        "C-041",
        "C-042",
        name=SECOND,
        siblings={FIRST: GOOD_FIRST},
    ),
    invalid(
        "S03-sibling-says-another-number",
        "S03",
        GOOD_FIRST,
        "C-044",
        name=FIRST,
        siblings={SECOND: shard(0, 2, 2, [B])},
    ),
    invalid(
        "S04-sum-of-tensors", "S04", shard(0, 2, 3, [A]), "C-045", name=FIRST, siblings={SECOND: GOOD_SECOND}
    ),
    invalid(
        "S06-tensor-twice", "S06", GOOD_FIRST, "C-046", name=FIRST, siblings={SECOND: shard(1, 2, 2, [A])}
    ),
    invalid("split-keys-of-other-types", "", shard(0, 1, 1, [A], (U32, U16, I32)), "C-040"),
    invalid(
        "split-keys-not-all",
        "",
        gguf([ARCHITECTURE, key_value("split.no", U16, 0), key_value("split.count", U16, 1)]),
        "C-040",
    ),
    valid("one-shard-of-one", "", shard(0, 1, 1, [A])),
    valid(
        "first-shard-without-tensors",
        "",
        shard(0, 2, 2, []),
        name=FIRST,
        siblings={SECOND: shard(1, 2, 2, [B, C])},
    ),
]
CASES = MODEL + SHARDS
