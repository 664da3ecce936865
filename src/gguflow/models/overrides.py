"""What the user says about a model in place of what its files say: a name, and a file of metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gguflow.arguments import shown, suggestion
from gguflow.errors import Finding, InvalidError, MalformedError, UsageError
from gguflow.models.documents import Document
from gguflow.models.general_fields import FIELDS, ORIGIN, PREFIX, Fields, Kind
from gguflow.sources import strict_json

_MAX_NBYTES = 1 << 20
_RULE = "M-027"


@dataclass(frozen=True)
class Overrides:
    """Fields of `general.*` that replace those found; None removes one."""

    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | None = None, name: str | None = None) -> Overrides:
        """Those in a JSON file, and a name, which has priority over the file's.

        file: an object with keys as in a GGUF file (`general.author`); `general.base_models` and
            `general.datasets` are lists of objects with `name`, `organization`, `repo_url` and so on. null
            removes what would be there. None for no file.
        name: for `general.name`; None for none.

        Raises UsageError (no name), InvalidError (M-027; S-001), MalformedError and LimitError (M-021, M-022,
        J-001 to J-009), StorageError.
        """
        fields = {} if file is None else _read(file)
        return cls(fields if name is None else {**fields, "name": _checked(name)})

    def over(self, fields: Fields) -> Fields:
        """Fields with these in place of theirs."""
        return {key: value for key, value in {**fields, **self.fields}.items() if value is not None}


def _checked(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"the model's name (--model-name) must be a text that is not empty: {shown(name)}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"the model's name (--model-name) must be Unicode text: {shown(name)}") from None
    return name


def _read(file: Path) -> dict[str, Any]:
    values = strict_json.read(file, _MAX_NBYTES, "M-022")
    if not isinstance(values, dict):
        raise MalformedError(file, Finding("M-021", "not a JSON object", found=type(values).__name__))
    document = Document(file, values)
    known = {PREFIX + name: kind for name, kind in FIELDS.items()}
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            message = f"{key!r} is no key that a file of metadata can set{suggestion(key, known)}"
            expected = "a key about origin or sampling (general.author); --override-kv sets others"
            raise InvalidError(file, Finding(_RULE, message, document.at(key), expected=expected))
        try:
            fields[key.removeprefix(PREFIX)] = None if value is None else _READERS[known[key]](document, key)
        except InvalidError as error:
            raise InvalidError(file, replace(error.finding, rule=_RULE)) from None
    return fields


def _whole(document: Document, key: str) -> int:
    return document.integer(key, minimum=-(2**31))


def _texts(document: Document, key: str) -> list[str]:
    found = document.items(key)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise document.wrong(key, text, "a string", i)
    return found


def _origins(document: Document, key: str) -> list[dict[str, str]]:
    return [_origin(origin) for origin in document.sections(key)]


def _origin(origin: Document) -> dict[str, str]:
    for key in origin.values:
        if key not in ORIGIN:
            raise origin.wrong(key, key, f"one of {', '.join(ORIGIN)}{suggestion(key, ORIGIN)}")
    return {key: origin.text(key) for key in origin.values if key in origin}


_READERS: Mapping[Kind, Callable[[Document, str], Any]] = {
    Kind.TEXT: Document.text,
    Kind.WHOLE: _whole,
    Kind.NUMBER: Document.number,
    Kind.TEXTS: _texts,
    Kind.ORIGINS: _origins,
}
