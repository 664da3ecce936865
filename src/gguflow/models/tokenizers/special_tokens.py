"""Special tokens and normalizer flags: with the chat template, the keys that every tokenizer ends with.

The rules are those of llama.cpp's `SpecialVocab` (gguf-py/gguf/vocab.py), reimplemented because released gguf
packages differ in them: tokenizer.json says which special tokens frame a sequence, tokenizer_config.json
names the tokens, and config.json gives the remaining ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.models.documents import Document
from gguflow.models.tokenizers.chat_template import chat_template
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.tokenizer_json import token_text

ID_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",  # llama.cpp's spelling
    "pad": "tokenizer.ggml.padding_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
}
"""The key of each kind of special token; "cls" has none."""

ADD_KEYS = {kind: f"tokenizer.ggml.add_{kind}_token" for kind in ("bos", "eos", "sep")}


@dataclass
class _Findings:
    """What has been found so far.

    kinds: the special tokens to look for, in order.
    names: by kind, its text or the object that holds it, exactly as in tokenizer_config.json; llama.cpp
        treats an object and its text as different tokens, and so gives some models an end of turn.
    beyond: the kinds of which an id beyond the vocabulary was ignored.
    """

    kinds: list[str] = field(default_factory=lambda: ["bos", "eos", "unk", "sep", "pad", "cls", "mask"])
    names: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    beyond: set[str] = field(default_factory=set)
    add: dict[str, bool] = field(default_factory=dict)


def special_metadata(
    files: TokenizerFiles, n_tokens: int | None = None, *, peer_limits: bool = True
) -> Metadata:
    """The special tokens' ids, whether to add them, the chat template, and the normalizer's flags.

    files: of the tokenizer.
    n_tokens: ids from this number on are ignored; None for no limit.
    peer_limits: whether llama.cpp's converter ignores them too; it does not for byte-level BPE.

    Raises InvalidError (M-003: a value of the wrong type), MalformedError, LimitError and StorageError as
    read_text.
    """
    tokenizer, settings = files.tokenizer, files.settings
    findings = _Findings()
    normalizer = Normalizer()
    if settings is not None:
        findings.names = {kind: settings.values.get(f"{kind}_token") for kind in findings.kinds}
    if tokenizer is not None:
        normalizer = Normalizer.of(tokenizer.section("normalizer"))
        _framing(tokenizer, settings is not None, findings)
    if settings is not None:
        _from_settings(settings, _added_ids(tokenizer), n_tokens, findings)
    for kind in findings.kinds:
        _set_id(findings, kind, files.config.values.get(f"{kind}_token_id"), n_tokens, files.config)
    if not peer_limits:
        _leave_out(findings, files)
    metadata = {ID_KEYS[kind]: u32(token) for kind, token in findings.ids.items() if kind in ID_KEYS}
    metadata |= {ADD_KEYS[kind]: boolean(add) for kind, add in findings.add.items() if kind in ADD_KEYS}
    metadata |= chat_template(files.directory, settings, files.config.applied)
    if normalizer.lowercase is not None:
        metadata["tokenizer.ggml.normalizer.lowercase"] = boolean(normalizer.lowercase)
    if normalizer.strip_accents is not None:
        metadata["tokenizer.ggml.normalizer.strip_accents"] = boolean(normalizer.strip_accents)
    return metadata


@dataclass
class Normalizer:
    """What the normalizer of a tokenizer.json does to case and accents; None if unspecified."""

    lowercase: bool | None = None
    strip_accents: bool | None = None

    @classmethod
    def of(cls, normalizer: Document) -> Normalizer:
        """Read a normalizer, or a sequence of normalizers in order. Raises InvalidError (M-003)."""
        found = cls()
        for step in steps(normalizer, "normalizers"):
            kind = step.text("type", "")
            if kind == "Lowercase":
                found.lowercase = True
            elif kind == "StripAccents":
                found.strip_accents = True
            elif kind == "BertNormalizer":
                found.lowercase = step.flag("lowercase") if "lowercase" in step else found.lowercase
                found.strip_accents = step.flag("strip_accents") if "strip_accents" in step else None
        return found


def steps(part: Document, key: str) -> Iterator[Document]:
    """The steps of a part of tokenizer.json in order; a `Sequence` of steps under `key` is flattened."""
    waiting = [part]
    while waiting:
        step = waiting.pop()
        if step.values.get("type") == "Sequence":
            waiting += reversed(list(step.sections(key)))
        elif step.values:
            yield step


def _added_ids(tokenizer: Document | None) -> dict[str, Any]:
    """The ids of the added tokens by text; the first counts."""
    ids: dict[str, Any] = {}
    if tokenizer is not None:
        for token in tokenizer.sections("added_tokens"):
            ids.setdefault(token.text("content"), token.values.get("id"))
    return ids


def _set_id(findings: _Findings, kind: str, token: Any, n_tokens: int | None, source: Document) -> None:
    """Keep the first id of each kind; a list (several ends of sequence) or an id out of range is ignored."""
    if not isinstance(token, int) or isinstance(token, bool):
        return
    if token == -1:  # several programs write it for "none"
        return
    if token < 0:
        raise source.wrong(f"{kind}_token_id", token, "0 or more")
    if n_tokens is None or token < n_tokens:
        findings.ids.setdefault(kind, token)
    elif kind not in findings.ids:
        findings.beyond.add(kind)


def _leave_out(findings: _Findings, files: TokenizerFiles) -> None:
    """Note the difference if llama.cpp's converter would write an id beyond the vocabulary, and add no token
    that there is not: llama.cpp would take one of its own in its place.
    """
    beyond = findings.beyond & ID_KEYS.keys()
    for kind in beyond - findings.ids.keys():
        if findings.add.get(kind):
            findings.add[kind] = False
    if beyond:
        files.config.applied.add("special-id-beyond-vocabulary")


def _from_settings(
    settings: Document, ids: dict[str, Any], n_tokens: int | None, findings: _Findings
) -> None:
    """Find which tokens to add (the post-processor has priority), and the ids of the named ones."""
    for kind in findings.kinds:
        add = settings.values.get(f"add_{kind}_token")
        if isinstance(add, bool):
            findings.add.setdefault(kind, add)
        if (text := token_text(findings.names.get(kind))) is not None:
            _set_id(findings, kind, ids.get(text), n_tokens, settings)


def _framing(tokenizer: Document, named: bool, findings: _Findings) -> None:
    """Find from the post-processor whether a sequence gets a first and a last special token.

    named: whether tokenizer_config.json exists.
    """
    names = findings.names
    if named:
        names["bos"] = names.get("bos") or names.get("cls")
        names["eos"] = names.get("eos") or names.get("sep")
    for step in steps(tokenizer.section("post_processor"), "processors"):
        kind = step.text("type", "")
        if kind == "ByteLevel":
            findings.add.setdefault("bos", False)
            findings.add.setdefault("eos", False)
        elif kind == "RobertaProcessing":
            findings.add |= {"bos": True, "eos": True, "sep": True}
            for role, instead in (("cls", "bos"), ("sep", "eos")):
                pair = step.items(role)
                names[role] = names.get(role) or (
                    pair[0] if pair and isinstance(pair[0], str) else names.get(instead)
                )
        elif kind == "TemplateProcessing":
            _template(step, named, findings)


def _template(step: Document, named: bool, findings: _Findings) -> None:
    """Read `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]` with llama.cpp's heuristic."""
    names, add = findings.names, findings.add
    single, pair = list(step.sections("single")), list(step.sections("pair"))
    first = _special(single[0]) if len(single) > 1 else None
    last = _special(single[-1]) if len(single) > 1 else None
    if first:
        if not named:
            names["bos"] = first
        elif first not in (names.get("bos"), names.get("cls")):
            names["bos"] = names.get("bos") or first
            names["cls"] = names.get("cls") or first
        add["bos"] = first in (names.get("bos"), names.get("cls"))
    if last:
        free = next((kind for kind in ("eot", "eom") if kind not in findings.kinds), None)
        if named and last != names.get("eos") and free is not None:
            # the configured end of sequence is an end of turn: the template ends sequences with another token
            findings.kinds.append(free)
            names[free] = names.get("eos")
        names["eos"] = last
        add["eos"] = True
    start = 1 if first and pair and _special(pair[0]) == first else 0
    stop = len(pair) - 1 if last and pair and _special(pair[-1]) == last else len(pair)
    inner = pair[start:stop]
    if len(inner) > 2 and _sequence(inner[0]) == "A" and _sequence(inner[-1]) == "B":
        separators = (names.get("sep"), names.get("eos"))
        between = [_special(token) for token in inner[1:-1]]
        add["sep"] = bool(between[0] in separators and between[0] and not last)
        add["sep"] |= len(between) == 2 and between[1] is not None and between[1] in separators
        if add["sep"] and named and not names.get("sep"):
            names["sep"] = names.get("eos")


def _special(element: Document) -> str | None:
    token = element.section("SpecialToken").values.get("id")
    return token if isinstance(token, str) else None


def _sequence(element: Document) -> str | None:
    return element.section("Sequence").values.get("id")
