"""Chat templates are tried with sample conversations where jinja2 is installed, never in this process."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflow
from gguflow import models
from gguflow.container.metadata import ValueType, array, string
from gguflow.models.tokenizers import rendering, template_check
from gguflow.models.tokenizers.template_check import TOO_MUCH, template_faults
from gguflow.validation import examine
from testing.checkpoints import write_safetensors
from testing.families import checkpoint, files, shapes
from testing.gguf_files import array_file

needs_jinja = pytest.mark.skipif(importlib.util.find_spec("jinja2") is None, reason="needs jinja2")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GOOD = {
    "plain": CHATML,
    "text alone": "hello",
    "only alternating roles": "{% if messages[0]['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}"
    "{{ bos_token }}{{ messages[0]['content'] }}",
    "needs a system message": "{% if messages[0]['role'] != 'system' %}{{ raise_exception('') }}{% endif %}",
    "content in parts": "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}",
    "tools": "{{ tools[0]['function']['name'] + (tools | tojson(indent=4)) }}",
    "documents": "{% for d in documents %}{{ d['title'] + d['text'] }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}",
    "generation blocks": "{% generation %}{{ messages[0]['content'] }}{% endgeneration %}",
    "dates": "{{ strftime_now('%Y') }}",
    "namespaces": "{% set a = namespace(n=0) %}{% for m in messages %}{% set a.n = 1 %}{% endfor %}{{ a.n }}",
    "names Python's internals, so it is not tried": "{{ ''.__class__ }",
}
BAD = {
    "does not compile": ("{% for m in messages %}", "does not compile"),
    "an unknown tag": ("{% frobnicate %}", "does not compile"),
    "an unknown filter": ("{{ messages | frobnicate }}", "frobnicate"),
    "refuses everything": ("{{ raise_exception('never') }}", "never"),
    "an attribute of nothing": ("{{ settings.a.b }}", "undefined"),
    "changes what it is given": ("{{ messages.append(1) }}", "does not render"),
    "a type error": ("{{ messages + 1 }}", "TypeError"),
    "writes too much": (
        "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
        "writes more than",
    ),
    "a lone surrogate": ("{{ '\ud800' | frobnicate }}", "frobnicate"),
}
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{{ ('x' * 999999999) * 99 }}"


@needs_jinja
@pytest.mark.parametrize("template", GOOD.values(), ids=GOOD.keys())
def test_templates_that_render(template: str) -> None:
    assert template_faults([template]) == [None]


@needs_jinja
@pytest.mark.parametrize(("template", "says"), BAD.values(), ids=BAD.keys())
def test_templates_that_do_not(template: str, says: str) -> None:
    (fault,) = template_faults([template])
    assert fault is not None and says in fault
    assert len(fault) <= rendering.MAX_MESSAGE


@needs_jinja
@pytest.mark.skipif(sys.platform == "win32", reason="without limits of memory and time")
def test_templates_that_would_never_end_are_stopped() -> None:
    """And those before and behind them are still judged."""
    started = time.monotonic()
    found = template_faults([CHATML, ENDLESS, "{% if %}", HUGE, CHATML])
    assert found[0] is None and found[1] == TOO_MUCH and found[4] is None
    assert found[2] is not None and "compile" in found[2]
    assert found[3] == TOO_MUCH or "MemoryError" in str(found[3])
    assert time.monotonic() - started < 4 * template_check.SECONDS


def test_without_jinja_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_check, "is_available", lambda: False)
    assert template_faults(["{% if %}", CHATML]) == [None, None]


def test_where_no_process_can_be_started_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("no processes here")

    monkeypatch.setattr(template_check, "is_available", lambda: True)
    monkeypatch.setattr(subprocess, "run", refuse)
    assert template_faults(["{% if %}"]) == [None]


def test_templates_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def count(templates: list[str]) -> tuple[list[str | None], bool]:
        asked.append(len(templates))
        return [None] * len(templates), False

    monkeypatch.setattr(template_check, "is_available", lambda: True)
    monkeypatch.setattr(template_check, "_faults", count)
    assert template_faults(["x"] * 1000) == [None] * 1000
    assert asked == [template_check.MAX_TEMPLATES]


def said(monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    """Let every template have a fault, whether jinja2 is installed or not."""

    def faults(templates: list[str]) -> tuple[list[str | None], bool]:
        return [fault] * len(templates), False

    monkeypatch.setattr(template_check, "is_available", lambda: True)
    monkeypatch.setattr(template_check, "_faults", faults)


def test_a_conversion_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, "it does not compile in line 7")
    found = files("llama") | {"chat_template.jinja": "{% if %}"}
    model = models.load(checkpoint(tmp_path, found, shapes("llama")))
    (warning,) = model.warnings
    assert warning.finding.rule == "M-052" and warning.file.endswith("chat_template.jinja")
    assert "in line 7" in warning.finding.message
    assert model.metadata["tokenizer.chat_template"] == string("{% if %}"), "it is copied all the same"


def test_validation_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, "it does not compile in line 7")
    metadata = {
        "general.architecture": string("x"),
        "tokenizer.chat_template": string("{% if %}"),
        "tokenizer.chat_template.rag": string("{% if %}"),
        "tokenizer.chat_templates": array(ValueType.STRING, ["rag"]),
    }
    path = array_file(tmp_path / "model.gguf", metadata, {})
    findings = [finding for finding in gguflow.validate(path) if finding.rule == "G-018"]
    assert [finding.severity for finding in findings] == ["warning"] * 2
    assert "in line 7" in findings[0].message and "tokenizer.chat_template" in findings[0].path


@needs_jinja
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_validating_a_checkpoint_tries_its_template(tmp_path: Path, place: str) -> None:
    """As validating the GGUF file that is made of it does."""
    write_safetensors(tmp_path / "model.safetensors", {"a.weight": np.ones((2, 2), np.float32)})
    (tmp_path / "config.json").write_text("{}")
    assert gguflow.validate(tmp_path) == []
    broken = "{% for m in messages %}"
    text = broken if place.endswith("jinja") else json.dumps({"chat_template": broken})
    (tmp_path / place).write_text(text)
    (finding,) = gguflow.validate(tmp_path)
    assert (finding.rule, finding.severity) == ("M-052", "warning")
    assert "does not compile" in finding.message


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_broken_file_beside_the_weights_is_a_warning_of_validate(tmp_path: Path, content: bytes) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a.weight": np.ones((2, 2), np.float32)})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    verdict, (finding,) = examine(tmp_path)
    assert (verdict, finding.severity) == ("valid", "warning")
    assert finding.message.startswith("tokenizer_config.json: ")


def test_opening_a_model_tries_no_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {"general.architecture": string("x"), "tokenizer.chat_template": string("x")}
    path = array_file(tmp_path / "model.gguf", metadata, {})

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(template_check, "is_available", lambda: True)
    monkeypatch.setattr(subprocess, "run", refuse)
    with gguflow.open(path) as model:
        assert model.metadata["tokenizer.chat_template"] == "x"


DIFFERENCES: dict[str, tuple[dict[str, Any], bool]] = {
    "in the settings": ({"tokenizer_config.json": {"chat_template": "A"}}, False),
    "a file": ({"tokenizer_config.json": {}, "chat_template.jinja": "A"}, False),
    "a JSON file": ({"tokenizer_config.json": {}, "chat_template.json": {"chat_template": "A"}}, False),
    "both, the same": ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "A"}, False),
    "both": ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "B"}, True),
    "null": ({"tokenizer_config.json": {"chat_template": None}, "chat_template.jinja": "B"}, True),
    "no settings": ({"tokenizer_config.json": None, "chat_template.jinja": "B"}, True),
    "none at all": ({"tokenizer_config.json": None}, False),
    "others beside the file": (
        {"tokenizer_config.json": {}, "chat_template.jinja": "A", "additional_chat_templates/r.jinja": "B"},
        False,
    ),
    "others without the file": (
        {"tokenizer_config.json": {}, "additional_chat_templates/r.jinja": "B"},
        True,
    ),
}


@pytest.mark.parametrize(("changes", "differs"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_the_difference_from_llama_cpp_is_named(
    changes: dict[str, Any], differs: bool, tmp_path: Path
) -> None:
    found = {name: content for name, content in (files("llama") | changes).items() if content is not None}
    model = models.load(checkpoint(tmp_path, found, shapes("llama")))
    assert ("chat-template-file" in model.differences) == differs


@needs_jinja
def test_a_real_run_warns(tmp_path: Path) -> None:
    found = files("llama") | {"chat_template.jinja": "{% for m in messages %}"}
    (warning,) = models.load(checkpoint(tmp_path, found, shapes("llama"))).warnings
    assert "does not compile" in str(warning) and "line 1" in str(warning)


@needs_jinja
def test_the_renderer_takes_nothing_from_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint's directory may hold anything, also a json.py."""
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    (tmp_path / "jinja2.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert template_faults(["{% if %}"]) != [None]
    assert json.dumps("still ours") == '"still ours"'
