"""Findings about chat templates: whether they compile and render, where jinja2 is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import ValueType
from gguflow.errors import FileError, Finding, StorageError, warn
from gguflow.models.differences import Applied
from gguflow.models.documents import Document
from gguflow.models.tokenizers.chat_template import KEY, chat_template
from gguflow.models.tokenizers.template_check import template_faults
from gguflow.validation.model import Facts


def judge_chat_templates(facts: Facts) -> Iterator[Finding]:
    """Findings about the chat templates of a model; they run in a process of their own.

    facts: of the model.
    """
    templates = {
        key: value.value
        for key, value in facts.metadata.items()
        if (key == KEY or key.startswith(f"{KEY}."))
        and value.type is ValueType.STRING
        and isinstance(value.value, str)
    }
    for key, fault in zip(templates, template_faults(list(templates.values())), strict=True):
        if fault is not None:
            message = f"the chat template cannot be used with a sample conversation: {fault}"
            yield facts.about_key("G-018", message, key, severity="warning")


SETTINGS = "tokenizer_config.json"


def judge_checkpoint(directory: Path) -> None:
    """Warn about the chat templates of a checkpoint, and about files beside its weights that would hold one
    and cannot be read.

    directory: of the checkpoint.
    """
    try:
        chat_template(directory, Document.read(directory, SETTINGS), Applied())
    except FileError as error:
        place = Path(error.file)
        message = f"{place.name}: {error.finding.message}; it cannot be converted"
        warn(place, replace(error.finding, message=message))
    except StorageError as error:
        warn(directory, Finding("IO", str(error)))
