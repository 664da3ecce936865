"""Byte-level BPE as tiktoken keeps it: tokens by rank, without merges, which follow from the ranks.

The special tokens are not in the file: the checkpoint's program defines them, behind the last rank.
"""

from __future__ import annotations

from collections.abc import Sequence

from gguflow.container.metadata import Metadata, ValueType, array
from gguflow.models.documents import read_bytes
from gguflow.models.tokenizers import ranks as by_rank
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.tokenizers.encoding.byte_letters import spelt
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.ranks import Ranks
from gguflow.models.tokenizers.special_tokens import ID_KEYS, special_metadata
from gguflow.models.tokenizers.tokenizer_json import decoder_ids, token_text
from gguflow.models.tokenizers.variants import with_ids
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary

KIMI, HUNYUAN = "tiktoken.model", "hy.tiktoken"
"""The files of these families."""

_KIMI_RESERVED = 258
_HUNYUAN_SPECIAL = (
    *("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"),
    *(f"<|extra_{i}|>" for i in range(205)),
)
_HUNYUAN_BOS = 127959
"""The id of <|bos|>; config.json names another token."""


def tiktoken_metadata(
    files: TokenizerFiles, ranks: Ranks, special: Sequence[str], pre: str, *, skips: bool = False
) -> Metadata:
    """The keys from a list of ranks, padded to config's vocab_size.

    files: of the tokenizer.
    ranks: the tokens.
    special: further tokens, whose ids follow those of the ranks.
    pre: name of the pre-tokenizer.
    skips: whether there may be tokens that no merge makes.

    Raises InvalidError (M-028) for ranks from which no merges follow, and what special_metadata raises.
    """
    vocabulary = Vocabulary.padding(files.n_tokens)
    for content, rank in ranks.items():
        if rank < files.n_tokens:
            vocabulary.put(rank, spelt(content), TokenType.NORMAL)
    for token, text in enumerate(special, start=1 + max(ranks.values())):
        if token < files.n_tokens:
            vocabulary.put(token, text, TokenType.CONTROL)
    keys = vocabulary.metadata("gpt2", pre)
    merges = by_rank.last_merges(ranks, files.directory, skips=skips)
    keys["tokenizer.ggml.merges"] = array(ValueType.STRING, merges)
    return keys | special_metadata(files, files.n_tokens, peer_limits=False)


def read_ranks(files: TokenizerFiles, name: str) -> Ranks:
    """The tokens and their ranks: lines of a token in base64 and a number.

    files: of the tokenizer.
    name: of the file.

    Raises InvalidError (M-023) if there is none, what ranks.read_ranks raises, and what read_bytes raises.
    """
    content = read_bytes(files.directory, name)
    if content is None:
        raise no_tokenizer(files.directory, name)
    return by_rank.read_ranks(content, files.directory / name)


def kimi_metadata(files: TokenizerFiles) -> Metadata:
    """Kimi K2, VL and Linear: tokenizer.json if there is one, else tiktoken.model. The special tokens are
    those of `added_tokens_decoder`, or reserved.

    files: of the tokenizer.

    Raises what bpe_metadata, read_ranks and tiktoken_metadata raise.
    """
    if files.tokenizer is not None or not (files.directory / KIMI).is_file():
        return bpe_metadata(files, ("tokenizer.json", KIMI))
    ranks = read_ranks(files, KIMI)
    return tiktoken_metadata(files, ranks, _kimi_special(files, len(ranks)), "kimi-k2", skips=True)


def kimi_linear_metadata(files: TokenizerFiles) -> Metadata:
    """The same; the end of a text is that of the tokenizer, whatever config.json says.

    files: of the tokenizer.

    Raises as `kimi_metadata`.
    """
    keys = kimi_metadata(files)
    if files.tokenizer is not None or files.settings is None:
        return keys
    special = list(keys["tokenizer.ggml.tokens"].value)
    end = token_text(files.settings.values.get("eos_token")) or "[EOS]"
    return with_ids(keys, {"eos": special.index(end)}, replaces=True) if end in special else keys


def _kimi_special(files: TokenizerFiles, first: int) -> list[str]:
    named: dict[int, str] = {}
    if files.settings is not None:
        decoder = files.settings.section("added_tokens_decoder")
        named = {token: decoder.section(str(token)).text("content") for token in decoder_ids(decoder)}
    return [named.get(i, f"<|reserved_token_{i}|>") for i in range(first, first + _KIMI_RESERVED)]


def hunyuan_metadata(files: TokenizerFiles) -> Metadata:
    """HunYuan's mixtures of experts: hy.tiktoken if there is one, else tokenizer.json.

    files: of the tokenizer.

    Raises what bpe_metadata, read_ranks and tiktoken_metadata raise.
    """
    if not (files.directory / HUNYUAN).is_file():
        return bpe_metadata(files, ("tokenizer.json", HUNYUAN))
    keys = tiktoken_metadata(files, read_ranks(files, HUNYUAN), _HUNYUAN_SPECIAL, "hunyuan", skips=True)
    if files.n_tokens > _HUNYUAN_BOS:
        return with_ids(keys, {"bos": _HUNYUAN_BOS}, replaces=True)
    files.config.applied.add("special-id-beyond-vocabulary")
    keys.pop(ID_KEYS["bos"], None)
    return keys
