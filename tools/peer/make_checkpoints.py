"""Small random checkpoints of every family, made with transformers and tokenizers (run by the peer's Python).

make_checkpoints.py OUT_DIR SENTENCEPIECE_MODEL
"""

from __future__ import annotations

import argparse as subject
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama-bpe": [
        pre_tokenizers.Split(Regex(WORDS + r"|\p{N}{1,3}" + REST), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(Regex(WORDS + r"|\p{N}" + REST), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)],
}
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


MISTRAL: dict[str, Any] = {
    "added_tokens.json": {"<extra>": 4097},
    "tokenizer_config.json": {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "add_bos_token": True,
        "add_prefix_space": True,
        "chat_template": "{{ x }}",
        "added_tokens_decoder": {
            "4096": {"content": "[INST]", "special": True},
            "4098": {"content": "two\u2581words"},
        },
    },
}
ODD: dict[str, Any] = {
    "tokenizer_config.json": {
        "unk_token": "the",
        "pad_token": "<pad>",
        "mask_token": "!",
        "extra_special_tokens": ["<extra>", "#", "<tool_call>"],
        "added_tokens_decoder": {
            "0": {"content": "<|endoftext|>", "special": True},
            "1004": {"content": "late", "special": False},
        },
        "add_bos_token": True,
    },
    "generation_config.json": {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "repetition_penalty": 1.05,
        "eos_token_id": [1, 2],
    },
    "README.md": """---
license: [mit, apache-2.0]
language:
- en
- no
tags: [a, b]
pipeline_tag: text-generation
base_model: some-org/Some-Model-1B
datasets:
- some-org/some-data
- https://huggingface.co/other-org/other-data
author: somebody
version: '1.0'
---
""",
}
"""What real checkpoints have now and then: special tokens that are no tokens yet, a full model card,
recommended sampling.
"""


def main() -> None:
    out, sentencepiece_model = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    llama3 = LlamaConfig(
        **SIZES,
        vocab_size=1100,
        max_position_embeddings=131072,
        rope_parameters=LLAMA3_ROPE,
        rms_norm_eps=1e-5,
    )
    save(
        LlamaForCausalLM(llama3),
        bpe("llama-bpe", ["<|begin_of_text|>", "<|end_of_text|>"], frame=True),
        out / "Llama-3-Like-llama-bpe",
    )
    smollm = LlamaConfig(
        **SIZES,
        vocab_size=1040,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    save(
        LlamaForCausalLM(smollm),
        bpe("smollm", ["<|im_start|>", "<|im_end|>"]),
        out / "SmolLM-Like-Instruct-smollm",
    )
    qwen2 = Qwen2Config(
        **SIZES,
        vocab_size=1200,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
    )
    save(Qwen2ForCausalLM(qwen2), bpe("qwen2", ["<|endoftext|>", "<|im_end|>"]), out / "Qwen2-Like-qwen2")
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    }
    qwen3 = Qwen3Config(**SIZES, vocab_size=1200, head_dim=64, rope_parameters=yarn)
    save(Qwen3ForCausalLM(qwen3), bpe("qwen2", ["<|endoftext|>", "<|im_end|>"]), out / "Qwen3-Like-qwen2")
    experts = {"num_experts": 12, "moe_intermediate_size": 256, "num_experts_per_tok": 4, "head_dim": 32}
    qwen3moe = Qwen3MoeConfig(
        **SIZES, **experts, vocab_size=1200, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}
    )
    save(
        Qwen3MoeForCausalLM(qwen3moe),
        bpe("qwen2", ["<|endoftext|>", "<|im_end|>"]),
        out / "Qwen3-Moe-Like-qwen2",
    )
    labels = {"id2label": {0: "bad", 1: "fair", 2: "good"}}
    bert = BertConfig(
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=700,
        **labels,
    )
    save(BertForSequenceClassification(bert), wordpiece(), out / "Bert-Like-jina-v2-en")
    pooling = {
        "modules.json": [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}],
        "1_Pooling/config.json": {"pooling_mode": "cls"},
    }
    write(out / "Bert-Like-jina-v2-en", pooling)
    odd = LlamaConfig(**SIZES | {"num_hidden_layers": 1}, vocab_size=1100)
    save(LlamaForCausalLM(odd), bpe("smollm", ["<|endoftext|>", "<|im_end|>"]), out / "Odd-smollm")
    settings = json.loads((out / "Odd-smollm" / "tokenizer_config.json").read_text())
    write(out / "Odd-smollm", ODD | {"tokenizer_config.json": settings | ODD["tokenizer_config.json"]})
    mistral = MistralConfig(
        **SIZES,
        vocab_size=4100,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    )
    save(MistralForCausalLM(mistral), None, out / "Mistral-Like-7B-v0.3")
    shutil.copy(sentencepiece_model, out / "Mistral-Like-7B-v0.3" / "tokenizer.model")
    write(out / "Mistral-Like-7B-v0.3", MISTRAL)
    mixtral = MixtralConfig(**SIZES, vocab_size=4100, num_local_experts=8, num_experts_per_tok=2)
    save(MixtralForCausalLM(mixtral), None, out / "Mixtral-Like-v0.1")
    shutil.copy(sentencepiece_model, out / "Mixtral-Like-v0.1" / "tokenizer.model")
    write(out / "Mixtral-Like-v0.1", MISTRAL)


def bpe(kind: str, special: list[str], *, frame: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 1000 tokens, with special and other added tokens. frame: it puts
    the first one before a text.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    tokenizer.normalizer = normalizers.NFC() if kind == "qwen2" else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[kind])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=alphabet,
        special_tokens=[] if frame else special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(Path(str(subject.__file__)).read_text().splitlines(keepends=True), trainer)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(["<tool_call>", "<|looks_special|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if frame:
        first = (special[0], tokenizer.token_to_id(special[0]))
        framing = processors.TemplateProcessing(
            f"{special[0]} $A", f"{special[0]} $A {special[0]} $B", [first]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), framing])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def wordpiece() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of about 600 tokens, lower-cased, that frames as BERT does."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(Path(str(subject.__file__)).read_text().splitlines(keepends=True), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def write(directory: Path, files: dict[str, Any]) -> None:
    """JSON files, and text as it is."""
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))


def save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast | None, directory: Path) -> None:
    """In BF16, with every parameter random: initial norms are all one, and biases zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.05)
    model.to(torch.bfloat16).save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main()
