"""The chat template of a checkpoint, copied from tokenizer_config.json or the files beside it."""

from __future__ import annotations

from pathlib import Path
from string import ascii_letters, digits

from gguflow.container.metadata import Metadata, ValueType, array, string
from gguflow.models.documents import Document, read_text


def chat_template(directory: Path, settings: Document) -> Metadata:
    """The chat template, unchanged; of several, "default" has the plain key, the others have their names."""
    template = settings.values.get("chat_template", _template_file(directory))
    if isinstance(template, str):
        return {"tokenizer.chat_template": string(template)} if template else {}
    if not isinstance(template, list):
        return {}
    named: dict[str, str] = {}
    for choice in Document(settings.file, {"chat_template": template}).sections("chat_template"):
        name = "".join(c if c in ascii_letters + digits else "_" for c in choice.text("name", ""))
        if name and "template" in choice:
            named[name] = choice.text("template")
    default = named.pop("default", None)
    metadata = {f"tokenizer.chat_template.{name}": string(text) for name, text in named.items()}
    if named:
        metadata["tokenizer.chat_templates"] = array(ValueType.STRING, sorted(named))
    if default is not None:
        metadata["tokenizer.chat_template"] = string(default)
    return metadata


def _template_file(directory: Path) -> object:
    """chat_template.jinja with those in additional_chat_templates/, or else from chat_template.json."""
    main = read_text(directory, "chat_template.jinja")
    if main is None:
        document = Document.read(directory, "chat_template.json")
        return None if document is None else document.values.get("chat_template")
    others = sorted(other.name for other in (directory / "additional_chat_templates").glob("*.jinja"))
    if not others:
        return main
    named = (
        {"name": Path(name).stem, "template": read_text(directory, f"additional_chat_templates/{name}") or ""}
        for name in others
    )
    return [{"name": "default", "template": main}, *named]
