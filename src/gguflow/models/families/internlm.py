"""InternLM 2 and 3: the second fuses queries, keys and values group by group; the third is Llama."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document, read_bytes
from gguflow.models.families import llama
from gguflow.models.keys import base_keys
from gguflow.models.orders import Groups, RopeOrder
from gguflow.models.parameters import Parameters
from gguflow.models.rules import linear, split
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.sentencepiece import sentencepiece_metadata
from gguflow.models.tokenizers.sentencepiece_model import read_model

CHAT_END = "<|im_end|>"
PREFIX, END = "tokenizer.ggml.add_space_prefix", "tokenizer.ggml.eos_token_id"


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys."""
    return base_keys("internlm2", config).metadata


def rules(p: Parameters) -> Rules:
    """Fused matrices are taken apart, and rows of Q and K put in the order of llama.cpp's "norm" rope."""
    yield from decoder.ends(p, embeddings="model.tok_embeddings", head="output")
    width = p.head_dim
    for i in range(p.n_layers):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{layer}.attention_norm", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{layer}.ffn_norm", f"{block}.ffn_norm")
        heads, groups = p.heads(i), p.kv_heads(i)
        rows = (heads * width, groups * width, groups * width)
        targets = [(f"{block}.attn_{x}.weight", n) for x, n in zip("qkv", rows, strict=True)]
        order, rope = (
            Groups((heads // max(groups, 1) * width, width, width), groups),
            RopeOrder(p.rotated_dim),
        )
        source = f"{layer}.attention.wqkv.weight"
        yield split(source, targets, (p.hidden,), order=order, orders=(rope, rope, None))
        yield from linear(f"{layer}.attention.wo", f"{block}.attn_output", p.hidden, heads * width)
        names = ("w1", "w3", "w2")
        yield from decoder.feed_forward(p, i, source=f"{layer}.feed_forward", names=names)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """SentencePiece; of a chat model, the end of a turn is the end of a text."""
    keys, content = chat_tokenizer(files, by_looks=False), read_bytes(files.directory, "tokenizer.model")
    model = None if content is None else read_model(content, files.directory / "tokenizer.model")
    return keys if model is None else keys | {PREFIX: boolean(model.adds_space)}


def tokenizer_3(files: TokenizerFiles) -> Metadata:
    """The same; tokenizer_config.json says whether a space is put before a text."""
    keys = chat_tokenizer(files)
    if files.settings is not None and "add_prefix_space" in files.settings:
        keys = {PREFIX: boolean(files.settings.flag("add_prefix_space"))} | keys
    return keys


def chat_tokenizer(files: TokenizerFiles, *, by_looks: bool = True) -> Metadata:
    """The keys from tokenizer.model.

    files: of the tokenizer.
    by_looks: whether added tokens that look special are, without being marked so.

    Raises InvalidError (M-023) if there is no such file.
    """
    if (keys := sentencepiece_metadata(files, by_looks=by_looks)) is None:
        raise no_tokenizer(files.directory, "tokenizer.model")
    end = chat_end(files)
    return keys if end is None or END not in keys else keys | {END: u32(end)}


def chat_end(files: TokenizerFiles) -> int | None:
    """The id of the end of a turn, None if there is no such token."""
    if files.settings is None:
        return None
    decoder_section = files.settings.section("added_tokens_decoder")
    for key in decoder_section.values:
        if decoder_section.section(key).text("content", "") == CHAT_END and key.isdecimal():
            return int(key[:9])
    return None


ARCHITECTURES = (
    Architecture(
        name="internlm2",
        classes=("InternLM2ForCausalLM",),
        metadata=metadata,
        rules=rules,
        tokenizer=tokenizer,
        required=DECODER_KEYS,
    ),
    Architecture(
        name="llama",
        classes=("InternLM3ForCausalLM",),
        metadata=llama.metadata,
        rules=llama.rules,
        tokenizer=tokenizer_3,
        skipped=(r"(mlp|vision_model).*",),
        computed=(r"rope_freqs\.weight",),
        is_main=False,
    ),
)
