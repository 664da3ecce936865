"""The model card (README.md): its front matter, read with bounds, and proved to be text before it is used.

A card is written by hand, and says nothing that a conversion depends on. So whatever is wrong with it is a
warning (M-020), and the conversion goes on without the value, or without the card. Of YAML, what a card needs
is read: no aliases, which let a few bytes stand for gigabytes, and no tags of other programs.

What comes out of a good card is what llama.cpp's converter finds in it, so that the same keys are made of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gguflow.errors import Finding, GguflowError, warn
from gguflow.platform import storage_errors
from gguflow.sources.base import json_path, require_regular
from gguflow.sources.links import contained

FILE_NAME = "README.md"

MAX_FRONT_MATTER_NBYTES = 64 << 10
"""Of the front matter without its table of results (`model-index`), which is never used and may be long."""

_MAX_READ_NBYTES = 4 << 20
_MAX_DEPTH = 20
_MAX_NUMBER_LENGTH = 256
"""A longer plain scalar is text, whatever it looks like."""

_CORE = "tag:yaml.org,2002:"

_TEXTS = (
    "name",
    "author",
    "version",
    "organization",
    "description",
    "finetune",
    "basename",
    "size_label",
    "url",
    "doi",
    "uuid",
    "repo_url",
)
_OWN_TEXTS = ("model_creator", "model_type", "license_name", "license_link")
_LISTS = ("tags", "pipeline_tag", "languages", "language")
_MODELS = ("base_model", "base_models", "base_model_sources", "datasets", "dataset", "dataset_sources")


class _UnusableError(Exception):
    """A value that is not what its key wants.

    found: the value, or what there is of it.
    expected: in words.
    """

    def __init__(self, message: str, found: object = None, expected: object = None) -> None:
        super().__init__(message)
        self.found, self.expected = found, expected


def read_card(directory: Path) -> dict[str, Any]:
    """The values of the card that keys are made of, empty if there is none: text, lists of text, and of
    other models and datasets lists of text and of dicts of text. Never raises; what is left out is a warning
    (M-020).

    directory: the checkpoint's.
    """
    file = directory / FILE_NAME
    try:
        content = _beginning(directory)
        front_matter = None if content is None else _front_matter(content)
        nodes = {} if front_matter is None else _top_level(front_matter)
    except _UnusableError as error:
        _warn(file, "the model card is left out: " + str(error), "$", error)
        return {}
    except GguflowError as error:
        warn(file, Finding("M-020", f"the model card is left out: {_reason(error)}"))
        return {}
    found: dict[str, Any] = {}
    for key, reader in _READERS.items():
        if key in nodes:
            try:
                found[key] = reader(nodes[key], partial(_left_out, file, key))
            except _UnusableError as error:
                _left_out(file, key, error)
    return found


def heading_text(directory: Path) -> str:
    """The text of the card as far as it is read, with what is no UTF-8 replaced; "" if there is none. Never
    raises.

    directory: the checkpoint's.
    """
    try:
        content = _beginning(directory)
    except GguflowError:
        return ""
    return "" if content is None else content.decode("utf-8", "replace")


def _beginning(directory: Path) -> bytes | None:
    """The first bytes of the card, one more than `_MAX_READ_NBYTES` if it has them."""
    file = contained(directory, FILE_NAME)
    with storage_errors("read", file):
        if not os.path.lexists(file):
            return None
        require_regular(file)
        with file.open("rb") as stream:
            return stream.read(_MAX_READ_NBYTES + 1)


def _front_matter(content: bytes) -> str | None:
    """The lines between the first two that are `---`, without the table of results; None if there are none.

    What is changed in them is what llama.cpp changes: tabs, and the Norwegian language.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _UnusableError("it is UTF-16, not UTF-8; save it as UTF-8")
    if content.startswith(b"\xef\xbb\xbf---"):
        raise _UnusableError("it begins with a byte order mark; save it as UTF-8 without one")
    text = content.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.splitlines()
    if not lines or lines[0] != "---":
        return None
    try:
        end = lines.index("---", 1)
    except ValueError:
        if len(content) > _MAX_READ_NBYTES:
            raise _UnusableError(f"its front matter has more than {_MAX_READ_NBYTES} bytes") from None
        end = len(lines)
    yaml_text = "\n".join(_without_results(lines[1:end])) + "\n"
    try:
        nbytes = len(yaml_text.encode("utf-8"))
    except UnicodeEncodeError:
        raise _UnusableError("its front matter is not UTF-8; save it as UTF-8") from None
    if nbytes > MAX_FRONT_MATTER_NBYTES:
        raise _UnusableError(
            "its front matter is too long", f"{nbytes} bytes", f"at most {MAX_FRONT_MATTER_NBYTES}"
        )
    return yaml_text.replace("- no\n", '- "no"\n').replace("\t", "  ")


def _without_results(lines: list[str]) -> list[str]:
    """The lines without the block under `model-index:`."""
    kept, is_inside = [], False
    for line in lines:
        if not line.startswith((" ", "-", "#")) and line.strip():
            is_inside = re.match(r"model-index *:", line) is not None
        if not is_inside:
            kept.append(line)
    return kept


def _top_level(text: str) -> dict[str, Any]:
    """The nodes of the mapping's values by key; of two with one key the last, as in PyYAML."""
    import yaml

    try:
        root = _loader()(text).get_single_node()
    except yaml.YAMLError as error:
        raise _UnusableError(f"its front matter cannot be read as YAML: {_first_line(error)}") from None
    except (ValueError, RecursionError) as error:
        raise _UnusableError(f"its front matter cannot be read as YAML: {_first_line(error)}") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise _UnusableError("its front matter is not a YAML mapping (key: value)")
    return {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}


def _loader() -> Any:
    """PyYAML's loader without aliases, with bounded nesting, and without numbers of any length."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                raise yaml.composer.ComposerError(
                    None, None, "aliases (*name) are not read; write the value out", event.start_mark
                )
            if self.depth >= _MAX_DEPTH:
                raise yaml.composer.ComposerError(
                    None, None, f"nested more than {_MAX_DEPTH} levels deep", event.start_mark
                )
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            if kind is yaml.ScalarNode and value is not None and len(value) > _MAX_NUMBER_LENGTH:
                return self.DEFAULT_SCALAR_TAG
            return super().resolve(kind, value, implicit)

    return Loader


def _text(node: Any, _: Callable[[_UnusableError], None]) -> str | None:
    """A scalar as it is written; None for null. What YAML takes for 0 or false is empty, as in
    llama.cpp."""
    kind = _kind(node)
    if kind == "null":
        return None
    if kind not in ("str", "bool", "int", "float", "timestamp", "value"):
        raise _UnusableError("expected text", _described(node))
    if kind == "bool" and node.value.lower() not in ("yes", "true", "on"):
        return ""
    if kind in ("int", "float") and re.fullmatch(r"[-+]?[0_]*\.?[0_]*", node.value):
        return ""
    return _sound(node.value)


def _license(node: Any, left_out: Callable[[_UnusableError], None]) -> Any:
    """A licence, or a list of several."""
    return _text(node, left_out) if _kind(node) != "seq" else _elements(node, left_out)


def _list(node: Any, left_out: Callable[[_UnusableError], None]) -> Any:
    """A text, or a list of texts. A number or truth value alone counts for nothing, as in llama.cpp."""
    kind = _kind(node)
    if kind == "seq":
        return _elements(node, left_out)
    if kind in ("str", "null", "value"):
        return _text(node, left_out)
    raise _UnusableError("expected text, or a list of texts", _described(node))


def _elements(node: Any, left_out: Callable[[_UnusableError], None]) -> list[str]:
    found = []
    for element in node.value:
        try:
            if _kind(element) not in ("str", "bool", "int", "float", "timestamp", "value"):
                raise _UnusableError("an element is not text", _described(element))
            found.append(_sound(element.value))
        except _UnusableError as error:
            left_out(error)
    return found


def _models(node: Any, left_out: Callable[[_UnusableError], None]) -> Any:
    """The names of models or datasets, or dicts that describe them. What is neither keeps its place in the
    list, as in llama.cpp.
    """
    kind = _kind(node)
    if kind in ("str", "null"):
        return _text(node, left_out)
    if kind != "seq":
        left_out(_UnusableError("expected a name, or a list of names", _described(node)))
        return []
    found: list[Any] = []
    for element in node.value:
        try:
            found.append(_model(element, left_out))
        except _UnusableError as error:
            left_out(error)
            found.append({})
    return found


def _model(node: Any, left_out: Callable[[_UnusableError], None]) -> Any:
    kind = _kind(node)
    if kind == "str":
        return _sound(node.value)
    if kind != "map":
        raise _UnusableError("an element is not a name", _described(node))
    found: dict[str, str] = {}
    for key, value in node.value:
        if getattr(key, "value", None) in _TEXTS:
            try:
                text = _text(value, left_out)
            except _UnusableError as error:
                left_out(error)
            else:
                found |= {} if text is None else {key.value: text}
    return found


_READERS: dict[str, Callable[[Any, Callable[[_UnusableError], None]], Any]] = {
    **dict.fromkeys((*_TEXTS, *(f"model_{key}" for key in _TEXTS), *_OWN_TEXTS), _text),
    "license": _license,
    **dict.fromkeys(_LISTS, _list),
    **dict.fromkeys(_MODELS, _models),
}


def _kind(node: Any) -> str:
    """What a node is, by its tag; "" for a tag that is not YAML's own, or not one for such a node."""
    tag: str = node.tag
    kind = tag.removeprefix(_CORE) if tag.startswith(_CORE) else ""
    return kind if node.id == {"seq": "sequence", "map": "mapping"}.get(kind, "scalar") else ""


def _sound(text: str) -> str:
    """The text, proved to be Unicode: YAML's escapes can hold one half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _UnusableError("it holds one half of a surrogate pair", text) from None
    return text


def _described(node: Any) -> str:
    """What a node is, for a message."""
    kind = {"seq": "a list", "map": "a mapping", "null": "null"}.get(_kind(node))
    if kind is not None:
        return kind
    return f"{node.tag} {node.value}" if isinstance(node.value, str) else str(node.tag)


def _first_line(error: Exception) -> str:
    """What a parser says, and in which line."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    text = str(problem) if problem else (str(error).splitlines() or [type(error).__name__])[0]
    return text if mark is None else f"{text}, in line {mark.line + 2}"


def _reason(error: GguflowError) -> str:
    """An error of our own in words; the file is named beside it."""
    finding = getattr(error, "finding", None)
    return str(error) if finding is None else f"{finding.message} ({finding.rule})"


def _left_out(file: Path, key: str, error: _UnusableError) -> None:
    _warn(file, f"the model card's {key} is left out, or a part of it: {error}", json_path(key), error)


def _warn(file: Path, message: str, path: str, error: _UnusableError) -> None:
    warn(file, Finding("M-020", message, path, found=error.found, expected=error.expected))
