"""Two models small enough to be mutated and run: a Llama with a vocabulary of SentencePiece, a Qwen3 with one
of bytes and merges; random weights.
"""

from __future__ import annotations

import numpy as np

from gguflow.container.header import TensorInfo, align
from gguflow.container.metadata import Metadata, ValueType, array, f32, string, u32
from gguflow.container.writer import build
from gguflow.models.tokenizers.encoding.byte_letters import byte_letters
from gguflow.models.tokenizers.vocabulary import TokenType
from gguflow.quantization import quantize, resolve

HIDDEN, HEADS, KV_HEADS, FFN, LAYERS = 32, 2, 1, 64, 1
PROMPT = "a b<0x0A>x 12\n"


def models() -> list[bytes]:
    """Both, their matrices in Q8_0."""
    return [_file("llama", _sentencepiece()), _file("qwen3", _byte_pairs())]


def _file(architecture: str, vocabulary: Metadata) -> bytes:
    n_tokens = len(vocabulary["tokenizer.ggml.tokens"].value)
    metadata: Metadata = {
        "general.architecture": string(architecture),
        f"{architecture}.block_count": u32(LAYERS),
        f"{architecture}.context_length": u32(64),
        f"{architecture}.embedding_length": u32(HIDDEN),
        f"{architecture}.feed_forward_length": u32(FFN),
        f"{architecture}.attention.head_count": u32(HEADS),
        f"{architecture}.attention.head_count_kv": u32(KV_HEADS),
        f"{architecture}.attention.layer_norm_rms_epsilon": f32(1e-5),
        f"{architecture}.rope.freq_base": f32(10000.0),
        f"{architecture}.rope.scaling.type": string("yarn"),
        f"{architecture}.rope.scaling.factor": f32(2.0),
        f"{architecture}.rope.scaling.original_context_length": u32(32),
        **vocabulary,
    }
    rng = np.random.default_rng(0)
    infos, parts, offset = [], [], 0
    for name, shape in _shapes(architecture, n_tokens).items():
        block_format = resolve("q8_0" if len(shape) == 2 else "f32")
        content = quantize(rng.standard_normal(shape, np.float32), block_format).tobytes()
        infos.append(TensorInfo(name, shape[::-1], block_format.id, offset))
        parts.append(content.ljust(align(len(content), 32), b"\0"))
        offset += len(parts[-1])
    return build(metadata, infos) + b"".join(parts)


def _shapes(architecture: str, n_tokens: int) -> dict[str, tuple[int, ...]]:
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_tokens, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for i in range(LAYERS):
        rows = {
            "attn_q": HIDDEN,
            "attn_k": KV_HEADS * head,
            "attn_v": KV_HEADS * head,
            "attn_output": HIDDEN,
            "ffn_gate": FFN,
            "ffn_up": FFN,
        }
        shapes |= {f"blk.{i}.{name}.weight": (n, HIDDEN) for name, n in rows.items()}
        shapes[f"blk.{i}.ffn_down.weight"] = (HIDDEN, FFN)
        norms = {"attn_norm": HIDDEN, "ffn_norm": HIDDEN} | (
            {"attn_q_norm": head, "attn_k_norm": head} if architecture == "qwen3" else {}
        )
        shapes |= {f"blk.{i}.{name}.weight": (n,) for name, n in norms.items()}
    return shapes


def _sentencepiece() -> Metadata:
    special, words = (
        ["<unk>", "<s>", "</s>"],
        ["\u2581", "a", "b", "x", "\u2581a", "\u2581b", "\u2581x", "ab"],
    )
    n_bytes = 256
    kinds = [
        TokenType.UNKNOWN,
        TokenType.CONTROL,
        TokenType.CONTROL,
        *[TokenType.BYTE] * n_bytes,
        *[TokenType.NORMAL] * len(words),
    ]
    return {
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": array(
            ValueType.STRING, [*special, *(f"<0x{i:02X}>" for i in range(n_bytes)), *words]
        ),
        "tokenizer.ggml.scores": array(
            ValueType.FLOAT32, [0.0] * (len(special) + n_bytes) + [-float(i) for i in range(len(words))]
        ),
        "tokenizer.ggml.token_type": array(ValueType.INT32, [int(kind) for kind in kinds]),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
    }


def _byte_pairs() -> Metadata:
    letters, special = list(byte_letters().values()), ["<|im_end|>", "<|endoftext|>"]
    space = byte_letters()[ord(" ")]
    merges = [f"{space} a", f"{space} b", "1 2", f"{space}a {space}b"]
    return {
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string("qwen2"),
        "tokenizer.ggml.tokens": array(
            ValueType.STRING, [*letters, *(merge.replace(" ", "") for merge in merges), *special]
        ),
        "tokenizer.ggml.token_type": array(
            ValueType.INT32,
            [int(TokenType.NORMAL)] * (len(letters) + len(merges)) + [int(TokenType.CONTROL)] * 2,
        ),
        "tokenizer.ggml.merges": array(ValueType.STRING, merges),
        "tokenizer.ggml.eos_token_id": u32(len(letters) + len(merges)),
    }
