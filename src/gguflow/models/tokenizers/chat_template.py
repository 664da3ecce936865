"""The chat template of a checkpoint, copied from the files beside tokenizer_config.json or from it."""

from __future__ import annotations

from pathlib import Path
from string import ascii_letters, digits

from gguflow.container.metadata import Metadata, ValueType, array, string
from gguflow.errors import Finding, warn
from gguflow.models.differences import Applied
from gguflow.models.documents import Document, read_text
from gguflow.models.tokenizers.template_check import template_faults

KEY = "tokenizer.chat_template"

FILE = "chat_template.jinja"
OTHERS = "additional_chat_templates"
LEGACY_FILE = "chat_template.json"


def chat_template(directory: Path, settings: Document | None, applied: Applied) -> Metadata:
    """The chat template, unchanged; of several, "default" has the plain key, the others have their names.

    As in transformers, chat_template.jinja has priority over what tokenizer_config.json says. A template that
    does not compile or render is warned about (M-052).

    directory: the checkpoint's.
    settings: tokenizer_config.json, None if there is none.
    applied: collects the difference from llama.cpp.

    Raises InvalidError (M-003), and what read_text and Document.read raise.
    """
    main = read_text(directory, FILE)
    legacy = Document.read(directory, LEGACY_FILE) if main is None else None
    of_legacy = None if legacy is None else legacy.values.get("chat_template")
    of_settings = None if settings is None else settings.values.get("chat_template")
    files = _files(directory, main, of_settings)
    if files is not None:
        source, found = directory / FILE, files
    elif settings is not None and of_settings is not None:
        source, found = settings.file, of_settings
    else:
        source, found = directory / LEGACY_FILE, of_legacy
    metadata = _metadata(source, found)
    if settings is None:
        peers: object = None
    elif "chat_template" in settings.values:
        peers = of_settings
    else:
        peers = None if main is None and files is not None else found
    if metadata != _metadata(source, peers):
        applied.add("chat-template-file")
    _check(source, metadata)
    return metadata


def _files(directory: Path, main: str | None, of_settings: object) -> object:
    """chat_template.jinja with those in additional_chat_templates/; None if there are none."""
    others = sorted(other.name for other in (directory / OTHERS).glob("*.jinja"))
    if not others:
        return main
    default = main if main is not None else of_settings if isinstance(of_settings, str) else None
    named = [
        {"name": Path(name).stem, "template": read_text(directory, f"{OTHERS}/{name}") or ""}
        for name in others
    ]
    return [{"name": "default", "template": default}, *named]


def _metadata(source: Path, template: object) -> Metadata:
    """The keys of a template, or of a list of named ones. Raises InvalidError (M-003)."""
    if isinstance(template, str):
        return {KEY: string(template)} if template else {}
    if not isinstance(template, list):
        return {}
    named: dict[str, str] = {}
    for choice in Document(source, {"chat_template": template}).sections("chat_template"):
        name = "".join(c if c in ascii_letters + digits else "_" for c in choice.text("name", ""))
        if name and "template" in choice:
            named[name] = choice.text("template")
    default = named.pop("default", None)
    metadata = {f"{KEY}.{name}": string(text) for name, text in named.items()}
    if named:
        metadata[f"{KEY}s"] = array(ValueType.STRING, sorted(named))
    if default is not None:
        metadata[KEY] = string(default)
    return metadata


def _check(source: Path, metadata: Metadata) -> None:
    """Warn about templates that cannot be used (M-052)."""
    templates = {key: str(value.value) for key, value in metadata.items() if key != f"{KEY}s"}
    for key, fault in zip(templates, template_faults(list(templates.values())), strict=True):
        if fault is not None:
            message = f"the chat template {key} cannot be used with a sample conversation: {fault}"
            warn(source, Finding("M-052", message))
