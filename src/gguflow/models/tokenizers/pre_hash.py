"""The name of a known vocabulary's pre-tokenizer, by what the tokenizer makes of one fixed text.

llama.cpp's converter encodes a text in which pre-tokenizers differ, and looks the SHA-256 of the ids up in a
list (here: `pre_hashes.py`). The ids are those of transformers, so what its classes change in a
tokenizer.json counts too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gguflow.models.documents import Document
from gguflow.models.tokenizers.encoding.pipeline import Added, NotUnderstoodError, encode, framed
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.pre_hashes import CHECK_TEXT, PRE_NAMES
from gguflow.models.tokenizers.tokenizer_json import (
    added_tokens,
    decoder_ids,
    own_tokens,
    token_text,
)

_FRAMING_CLASSES = {"Llama": True, "CodeLlama": True, "Gemma": True, "Cohere": True, "GPTNeoX": False}
"""Classes that add `bos_token` and `eos_token` by the flags of tokenizer_config.json, whatever the
post-processor is; and the default of `add_bos_token`.
"""

_BERT_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "MPNet", "RetriBert", "DPR", "LayoutLM")
"""Classes that lower case by the flag of tokenizer_config.json, whatever the normalizer is."""


def known_pre_name(files: TokenizerFiles, tokenizer: Document | None = None) -> str | None:
    """The name in llama.cpp's list for the vocabulary of a checkpoint; None if it is not in it.

    files: of the tokenizer.
    tokenizer: in the place of tokenizer.json, where there is none.

    Raises InvalidError (M-003, M-025).
    """
    ids = check_ids(files, tokenizer)
    return None if ids is None else PRE_NAMES.get(digest(ids))


def digest(ids: list[int]) -> str:
    """The SHA-256 of ids as llama.cpp's converter takes it, in hexadecimal digits."""
    return hashlib.sha256(str(ids).encode()).hexdigest()


def check_ids(files: TokenizerFiles, tokenizer: Document | None = None) -> list[int] | None:
    """What transformers makes of the text; None if the tokenizer has a part that is not understood here.

    files, tokenizer: as for `known_pre_name`.

    Raises InvalidError (M-003, M-025).
    """
    tokenizer = tokenizer or files.tokenizer
    if tokenizer is None:
        return None
    own = own_tokens(tokenizer, files.n_tokens)
    ids = {text: token for token, text in own.items()}
    added = _added(tokenizer, files.settings, own, files.n_tokens)
    settings: Mapping[str, Any] = {} if files.settings is None else files.settings.values
    kind = settings.get("tokenizer_class")
    kind = kind.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(kind, str) else ""
    prefix_space = settings.get("add_prefix_space") is True
    try:
        found = encode(
            _as_its_class(tokenizer, kind, settings), ids, added, CHECK_TEXT, prefix_space=prefix_space
        )
        if kind in _FRAMING_CLASSES:
            return _framed_by_flags(
                found, _FRAMING_CLASSES[kind], settings, ids | {token.text: token.token for token in added}
            )
        return framed(tokenizer, found)
    except NotUnderstoodError:
        return None


def _added(tokenizer: Document, settings: Document | None, own: dict[int, str], n_tokens: int) -> list[Added]:
    """The added tokens as they are matched: tokenizer_config.json has the last word on how."""
    texts = {known.text: token for token, known in added_tokens(tokenizer, settings, own, n_tokens).items()}
    how = {entry.text("content"): entry for entry in tokenizer.sections("added_tokens")}
    if settings is not None:
        decoder = settings.section("added_tokens_decoder")
        entries = (decoder.section(str(token)) for token in sorted(decoder_ids(decoder)))
        how |= {entry.text("content"): entry for entry in entries}
    return [
        Added.of(how[text], token) if text in how else Added(token, text, False, False, False, False)
        for text, token in texts.items()
    ]


def _as_its_class(tokenizer: Document, kind: str, settings: Mapping[str, Any]) -> Document:
    """tokenizer.json as the class of BERT's tokenizers changes it."""
    normalizer = tokenizer.values.get("normalizer")
    if not (
        isinstance(normalizer, dict)
        and normalizer.get("type") == "BertNormalizer"
        and kind in ("", *_BERT_CLASSES)
    ):
        return tokenizer
    changed = normalizer | {
        "lowercase": settings.get("do_lower_case", True),
        "strip_accents": settings.get("strip_accents"),
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
    }
    return replace(tokenizer, values={**tokenizer.values, "normalizer": changed})


def _framed_by_flags(
    ids: list[int], adds_bos: bool, settings: Mapping[str, Any], tokens: Mapping[str, int]
) -> list[int]:
    """The ids between the tokens that the flags add. Raises NotUnderstoodError without such tokens."""
    framed_ids = list(ids)
    for name, default, at in (("bos", adds_bos, 0), ("eos", False, len(ids) + 1)):
        if settings.get(f"add_{name}_token", default) is True:
            token = tokens.get(token_text(settings.get(f"{name}_token")) or "")
            if token is None:
                raise NotUnderstoodError(f"no {name}_token")
            framed_ids.insert(at, token)
    return framed_ids
