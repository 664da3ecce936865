"""Findings about chat templates: whether they compile and render, where jinja2 is installed."""

from __future__ import annotations

from collections.abc import Iterator

from gguflow.container.metadata import ValueType
from gguflow.errors import Finding
from gguflow.models.tokenizers.chat_template import KEY
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
