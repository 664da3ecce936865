"""Tokenizers of families that differ from others in a few ids, flags, or in the files that they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gguflow.container.metadata import Metadata, Value, boolean, u32
from gguflow.errors import Finding, InvalidError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.sentencepiece import sentencepiece_json_metadata, sentencepiece_metadata
from gguflow.models.tokenizers.special_tokens import ADD_KEYS, ID_KEYS

EITHER = ("tokenizer.json", "tokenizer.model")
SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
CODE_LLAMA_EOT = 32010
"""Code Llama's end of infilling, which its files do not name; a vocabulary of 32016 identifies it."""
GEMMA_EOT = 107
"""The end of a turn of the first Gemmas."""


# Keys that are added or changed


def with_ids(keys: Metadata, ids: Mapping[str, int], *, replaces: bool = False) -> Metadata:
    """The keys of a tokenizer with more ids, behind those that there are.

    keys: of the tokenizer.
    ids: by kind ("bos", "eot", ...).
    replaces: whether they take the place of ids that are there already.
    """
    new: Metadata = {}
    changed = dict(keys)
    for kind, token in ids.items():
        key = ID_KEYS[kind]
        if key not in keys:
            new[key] = u32(token)
        elif replaces:
            changed[key] = u32(token)
    return _behind_ids(changed, new)


def with_texts(files: TokenizerFiles, keys: Metadata, texts: Mapping[str, str]) -> Metadata:
    """The keys of a tokenizer with the ids of tokens that its files do not name; ids that are there stay.

    files: of the tokenizer.
    keys: of the tokenizer.
    texts: of added tokens, by kind.

    Raises InvalidError (M-023) for a token that the vocabulary does not have.
    """
    return with_ids(keys, {kind: _required(files, text) for kind, text in texts.items()})


def with_flags(keys: Metadata, *, replaces: bool = True, **flags: bool) -> Metadata:
    """The keys of a tokenizer that adds special tokens, or does not.

    keys: of the tokenizer.
    replaces: whether flags that are there are replaced.
    flags: "bos", "eos" and "sep".
    """
    new = {ADD_KEYS[kind]: boolean(value) for kind, value in flags.items()}
    return keys | new if replaces else new | keys


def _behind_ids(keys: Metadata, new: Mapping[str, Value]) -> Metadata:
    """Keys with new ones behind the last id, or behind the vocabulary."""
    known = [
        *ID_KEYS.values(),
        *(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges")),
    ]
    at = max(
        (index + 1 for index, key in enumerate(keys) if key in known or key.endswith("_token_id")), default=0
    )
    items = list(keys.items())
    return dict([*items[:at], *new.items(), *items[at:]])


def added_id(files: TokenizerFiles, text: str) -> int | None:
    """The id of an added token; None if the vocabulary does not have it.

    files: of the tokenizer.
    text: of the token.

    Raises InvalidError (M-002, M-003).
    """
    if files.tokenizer is not None:
        for entry in files.tokenizer.sections("added_tokens"):
            if entry.text("content") == text:
                token = entry.integer("id", minimum=0)
                return token if token < files.n_tokens else None
    return _decoder_id(files.settings, text, files.n_tokens)


def _decoder_id(settings: Document | None, text: str, n_tokens: int) -> int | None:
    """The id of a token in `added_tokens_decoder`. Raises InvalidError (M-003)."""
    if settings is not None:
        decoder = settings.section("added_tokens_decoder")
        for key in decoder.values:
            if decoder.section(key).text("content", "") == text:
                if not key.isdecimal() or len(key) > 9:
                    raise decoder.wrong(key, key, "a token id as the key")
                return int(key) if int(key) < n_tokens else None
    return None


def _required(files: TokenizerFiles, text: str) -> int:
    token = added_id(files, text)
    if token is None:
        file = files.directory / "tokenizer.json" if files.tokenizer is None else files.tokenizer.file
        message = (
            f"the vocabulary has no added token {text!r}, which every model of this family has; "
            "take the tokenizer's files of the model that was fine-tuned"
        )
        raise InvalidError(file, Finding("M-023", message, "$.added_tokens", expected=text))
    return token


# The order in which files are tried


def sentencepiece_or_bpe_metadata(files: TokenizerFiles) -> Metadata:
    """From tokenizer.model, else byte-level BPE (Qwen 2, DeepSeek, Dream, RWKV-Qwen)."""
    return sentencepiece_metadata(files) or bpe_metadata(files, EITHER)


def only_sentencepiece_metadata(files: TokenizerFiles) -> Metadata:
    """SentencePiece, from tokenizer.model or a tokenizer.json that holds such a vocabulary (Baichuan, Orion,
    MiniCPM, PLaMo). Raises InvalidError (M-023) without.
    """
    keys = sentencepiece_metadata(files) or sentencepiece_json_metadata(files)
    if keys is None:
        raise no_tokenizer(files.directory, "tokenizer.model")
    return keys


def llama_metadata(files: TokenizerFiles) -> Metadata:
    """From tokenizer.model, a SentencePiece vocabulary in tokenizer.json, or byte-level BPE (Llama and all
    that has its class); with Code Llama's end of infilling, and without a first token for the small Granites.
    """
    keys = spaced_as_said(files) | (
        sentencepiece_metadata(files) or sentencepiece_json_metadata(files) or bpe_metadata(files, EITHER)
    )
    if files.n_tokens == 32016:
        keys = with_ids(keys, {"eot": CODE_LLAMA_EOT}, replaces=True)
    return with_flags(keys, bos=False) if files.n_tokens == 49152 else keys


def spaced_as_said(files: TokenizerFiles) -> Metadata:
    """The key of `add_prefix_space` in tokenizer_config.json; none if it is not there. Raises InvalidError
    (M-003).
    """
    if files.settings is None or "add_prefix_space" not in files.settings:
        return {}
    return {SPACE_PREFIX: boolean(files.settings.flag("add_prefix_space"))}


def spaced_sentencepiece_metadata(files: TokenizerFiles) -> Metadata:
    """SentencePiece, with a space before a text as tokenizer_config.json says (Ernie 4.5, Pangu)."""
    return only_sentencepiece_metadata(files) | spaced_as_said(files)


def jamba_metadata(files: TokenizerFiles) -> Metadata:
    """From tokenizer.model, else a SentencePiece vocabulary in tokenizer.json, without a space in front."""
    if (keys := sentencepiece_metadata(files)) is not None:
        return keys
    return only_sentencepiece_metadata(files) | {SPACE_PREFIX: boolean(False)}


def phi3_metadata(files: TokenizerFiles) -> Metadata:
    """Phi-4's byte-level BPE if tokenizer_config.json names GPT2Tokenizer, else SentencePiece, in which added
    tokens are special only where they are marked so.
    """
    settings = files.settings
    if settings is not None and settings.text("tokenizer_class", "") == "GPT2Tokenizer":
        return bpe_metadata(files)
    keys = sentencepiece_metadata(files, by_looks=False)
    if keys is None:
        raise no_tokenizer(files.directory, "tokenizer.model")
    return keys


# Gemma


def gemma_metadata(files: TokenizerFiles) -> Metadata:
    """Gemma 1: SentencePiece without a space in front, and an end of turn."""
    return with_ids(gemma2_metadata(files), {"eot": GEMMA_EOT}, replaces=True)


def gemma2_metadata(files: TokenizerFiles) -> Metadata:
    """Gemma 2: SentencePiece without a space in front."""
    return only_sentencepiece_metadata(files) | {SPACE_PREFIX: boolean(False)}


def gemma3_metadata(files: TokenizerFiles) -> Metadata:
    """Gemma 3 and 3n: as Gemma 2; without a tokenizer.model whatever tokenizer.json holds."""
    keys = sentencepiece_metadata(files) or sentencepiece_json_metadata(files)
    return bpe_metadata(files, EITHER) if keys is None else keys | {SPACE_PREFIX: boolean(False)}


# Ids by text


def glm_metadata(files: TokenizerFiles) -> Metadata:
    """GLM-4.5 and later."""
    texts = {"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>", "eom": "<|observation|>"}
    return with_texts(files, bpe_metadata(files), texts)


def glm_edge_metadata(files: TokenizerFiles) -> Metadata:
    """GLM-4 in transformers' format, GLM-Edge, GLM-ASR."""
    end = "<|endoftext|>"
    return with_texts(files, bpe_metadata(files), {"eos": end, "eot": "<|user|>", "unk": end, "bos": end})


def chatglm_metadata(files: TokenizerFiles) -> Metadata:
    """GLM-4 in ChatGLM's format."""
    end = "<|endoftext|>"
    return with_texts(files, bpe_metadata(files), {"eos": end, "eot": "<|user|>", "unk": end})


def solar_open_metadata(files: TokenizerFiles) -> Metadata:
    end = "<|endoftext|>"
    texts = {"eos": end, "eot": end, "unk": "<unk>", "bos": "<|startoftext|>"}
    return with_texts(files, bpe_metadata(files), texts)


def dots3_metadata(files: TokenizerFiles) -> Metadata:
    return with_texts(files, bpe_metadata(files), {"eot": "<|endofassistant|>"})


def muse_glimmer_metadata(files: TokenizerFiles) -> Metadata:
    """An end of turn if the vocabulary has one."""
    token = added_id(files, "<|eot|>")
    keys = bpe_metadata(files)
    return keys if token is None else with_ids(keys, {"eot": token}, replaces=True)


def intern_s1_metadata(files: TokenizerFiles) -> Metadata:
    """InternS1: Qwen 3's vocabulary with more tokens, and a first token that no file names."""
    return with_ids(bpe_metadata(files, keeps_marks=True), {"bos": 151643})


def qwen3_omni_metadata(files: TokenizerFiles) -> Metadata:
    """Qwen3-Omni and Qwen3-ASR: the end of a message begins and ends texts."""
    keys = sentencepiece_or_bpe_metadata(files)
    end = _decoder_id(files.settings, "<|im_end|>", files.n_tokens)
    return keys if end is None else with_ids(keys, {"bos": end, "eos": end}, replaces=True)


def nemotron_metadata(files: TokenizerFiles) -> Metadata:
    """Nemotron: SentencePiece, with ids that its files do not name."""
    return with_ids(only_sentencepiece_metadata(files), {"pad": 0, "unk": 1}, replaces=True)


# Flags


def modern_bert_metadata(files: TokenizerFiles) -> Metadata:
    """ModernBERT frames texts unless its files say otherwise."""
    return with_flags(bpe_metadata(files), replaces=False, bos=True, eos=True, sep=True)


def euro_bert_metadata(files: TokenizerFiles) -> Metadata:
    """EuroBERT, Jina v5: no first token unless the files say so."""
    return with_flags(bpe_metadata(files), replaces=False, bos=False)


def llada_metadata(files: TokenizerFiles) -> Metadata:
    """LLaDA: always a first token."""
    return with_flags(bpe_metadata(files), bos=True)


# Vocabularies that are padded


def padded(files: TokenizerFiles, multiple: int) -> TokenizerFiles:
    """The files with a vocabulary whose size is rounded up.

    files: of the tokenizer.
    multiple: to which it is rounded up.

    Raises InvalidError (M-002, M-003).
    """
    n_tokens = -(-files.n_tokens // multiple) * multiple
    config = replace(files.config, values={**files.config.values, "vocab_size": n_tokens})
    return replace(files, config=config)


def _padded_metadata(files: TokenizerFiles, multiple: int, *, bpe_first: bool) -> Metadata:
    files = padded(files, files.config.integer("pad_vocab_size_multiple", multiple))
    attempts: list[Callable[[TokenizerFiles], Metadata | None]] = [
        lambda files: None if files.tokenizer is None else bpe_metadata(files),
        sentencepiece_metadata,
    ]
    for attempt in attempts if bpe_first else attempts[::-1]:
        if (keys := attempt(files)) is not None:
            return keys
    raise no_tokenizer(files.directory, *EITHER)


def mamba_metadata(files: TokenizerFiles) -> Metadata:
    """Mamba, Falcon-Mamba: byte-level BPE, else SentencePiece; padded to a multiple of 8."""
    return _padded_metadata(files, 8, bpe_first=True)


def mamba2_metadata(files: TokenizerFiles) -> Metadata:
    """Mamba 2: SentencePiece, else byte-level BPE; padded to a multiple of 16."""
    return _padded_metadata(files, 16, bpe_first=False)


def granite_hybrid_metadata(files: TokenizerFiles, has_ssm: bool = True) -> Metadata:
    """Granite 4's hybrids and Bamba: as Mamba 2, padded to a multiple of 8 where a layer has a state space.

    files: of the tokenizer.
    has_ssm: whether a layer has.
    """
    multiple = 8 if has_ssm else 1
    config = replace(files.config, values={**files.config.values, "pad_vocab_size_multiple": multiple})
    return _padded_metadata(replace(files, config=config), multiple, bpe_first=False)


def nemotron_h_metadata(files: TokenizerFiles) -> Metadata:
    """Nemotron-H: byte-level BPE, padded to a multiple of 8."""
    return bpe_metadata(padded(files, 8))
