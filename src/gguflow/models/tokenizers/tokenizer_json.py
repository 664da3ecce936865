"""tokenizer.json, the format of the Hugging Face libraries: its vocabulary and the added tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gguflow.errors import Finding, InvalidError
from gguflow.models.documents import Document

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before it is split.

    text: what is matched.
    special: whether decoding leaves it out.
    """

    text: str
    special: bool


def own_tokens(tokenizer: Document, n_tokens: int) -> dict[int, str]:
    """The texts by id of the vocabulary of the tokenizer's model. Raises InvalidError (M-003, M-025)."""
    vocab = tokenizer.section("model").section("vocab")
    tokens: dict[int, str] = {}
    for text in vocab.values:
        token = vocab.integer(text, minimum=0)
        if token >= n_tokens:
            raise _beyond(vocab, text, token, n_tokens)
        if token in tokens:
            message = f"{tokens[token]!r} and {text!r} have the same token id"
            raise InvalidError(vocab.file, Finding("M-025", message, vocab.where, found=token))
        tokens[token] = text
    return tokens


def added_tokens(
    tokenizer: Document, settings: Document | None, own: dict[int, str], n_tokens: int
) -> dict[int, AddedToken]:
    """The tokens by id that are added to the vocabulary `own`, as transformers adds them.

    First those in tokenizer.json's list; then the `added_tokens_decoder` of tokenizer_config.json and the
    tokens that it names (`bos_token`, ...). If their text is already a token, they only mark it (an extra one
    that was added keeps its mark); otherwise they are appended, regardless of their id.

    Raises InvalidError (M-003, M-025).
    """
    added: dict[int, AddedToken] = {}
    for entry in tokenizer.sections("added_tokens"):
        token = entry.integer("id", minimum=0)
        if token >= n_tokens:
            raise _beyond(entry, entry.text("content"), token, n_tokens)
        added[token] = AddedToken(entry.text("content"), entry.flag("special", False))
    if settings is not None:
        ids = {text: token for token, text in own.items()} | {
            known.text: token for token, known in added.items()
        }
        free = max(len(own), max(added, default=-1) + 1)
        for late, is_extra in _late_tokens(settings):
            if is_extra and ids.get(late.text) in added:
                continue
            token = ids.setdefault(late.text, free)
            free = max(free, token + 1)
            if token >= n_tokens:
                raise _beyond(settings, late.text, token, n_tokens)
            added[token] = late
    return dict(sorted(added.items()))


def merge_pairs(model: Document) -> list[tuple[str, str]]:
    """The merges of a tokenizer's model in their order, each given as "a b" or as a pair.

    Raises InvalidError (M-003).
    """
    merges: list[tuple[str, str]] = []
    for index, merge in enumerate(model.items("merges")):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], str)
        ):
            raise model.wrong("merges", merge, "two tokens", index)
        merges.append((pair[0], pair[1]))
    return merges


def _late_tokens(settings: Document) -> Iterator[tuple[AddedToken, bool]]:
    """The tokens of tokenizer_config.json (its list, named and extra ones), and whether each is an extra."""
    decoder = settings.section("added_tokens_decoder")
    for token in sorted(decoder_ids(decoder)):
        entry = decoder.section(str(token))
        yield AddedToken(entry.text("content"), entry.flag("special", False)), False
    for text in named_tokens(settings):
        yield AddedToken(text, special=True), text not in role_tokens(settings)


def decoder_ids(decoder: Document) -> list[int]:
    """The keys of an `added_tokens_decoder`. Raises InvalidError (M-003) if one is not a token id."""
    for key in decoder.values:
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", key):
            raise decoder.wrong(key, key, "a token id as the key")
    return [int(key) for key in decoder.values]


def named_tokens(settings: Document) -> list[str]:
    """The texts of the special tokens that tokenizer_config.json names."""
    extras: list[object] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        extra = settings.values.get(name)
        extras += extra.values() if isinstance(extra, dict) else extra if isinstance(extra, list) else []
    texts = [token_text(entry) for entry in extras]
    return list(dict.fromkeys([*role_tokens(settings), *(text for text in texts if text is not None)]))


def role_tokens(settings: Document) -> list[str]:
    """The named tokens that have a role, such as `bos_token`."""
    return [text for name in NAMED_TOKENS if (text := token_text(settings.values.get(name))) is not None]


def token_text(entry: object) -> str | None:
    """The text of a special token, given as text or as an object that holds it; None for anything else."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _beyond(source: Document, text: str, token: int, n_tokens: int) -> InvalidError:
    message = (
        f"the id of the token {text!r} is beyond the vocabulary of the model, so it has no embedding; "
        f"if the model was not trained with it, remove it from {source.file.name} "
        "(or use the tokenizer of the model that was fine-tuned); "
        "otherwise save the model again after model.resize_token_embeddings(len(tokenizer))"
    )
    return InvalidError(
        source.file, Finding("M-025", message, source.where, found=token, expected=f"below {n_tokens}")
    )
