"""The model card and generation_config.json: good ones give what gguf's own reader gives; bad ones
are warnings, and stop or delay nothing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguflow import models
from gguflow.container.metadata import Value, ValueType
from gguflow.conversion import prepare
from gguflow.errors import Finding, InvalidError, gathered_warnings
from gguflow.models.base import Model
from gguflow.models.card import MAX_FRONT_MATTER_NBYTES, read_card
from gguflow.models.general import ParameterCounts, general_metadata
from gguflow.models.gguf_limits import check_storable
from testing.checkpoints import tiny_llama
from testing.families import checkpoint, files, shapes
from testing.gguf_metadata import loaded_by_gguf, typed

COUNTS = ParameterCounts(1_100_000_000, 1_100_000_000, 0, 0)

LIST = """
license: apache-2.0
language:
- en
- no
tags: [chat, text-generation]
pipeline_tag: text-generation
base_model: meta-llama/Llama-3.2-1B
datasets:
- org/data-v2
- https://huggingface.co/datasets/x
"""
GOOD = {
    "empty": "",
    "as on the hub": LIST,
    "names": "name: My Model\nauthor: me\nversion: v1.5\norganization: us\nbasename: mine\n"
    "finetune: chat\nsize_label: 1B",
    "names with model_": "model_name: My Model 1B\nmodel_creator: me\nmodel_type: llama\nmodel_url: https://x.y",
    "licences": "license: [mit, apache-2.0]\nlicense_name: both\nlicense_link: LICENSE",
    "models as mappings": "base_model:\n- {name: a, organization: b, repo_url: https://c}\n- d/e-7B-v2\n"
    "datasets:\n- name: f",
    "models by url": "base_model: [https://huggingface.co/a/b-1B-chat, ssh://c]\ndataset: a/b",
    "a model that is a number": "base_model: 5\ndatasets: [org/a]",
    "null models": "base_model:\ndatasets:\n",
    "null texts": "license:\nname: null\ntags:\nlanguage: ~",
    "tabs, comments, quotes": "license:\tmit # yes\nname: 'a ''b'''\ndescription: \"a\\tb\\u00e9\"",
    "block text": "description: |\n  a\n  b\nname: >-\n  c\n  d",
    "a language that is false": "language: no\nname: x",
    "empty and zero": "name: ''\nversion: 0\nlicense: ''",
    "anchors that nobody uses": "license: &a mit\ntags: &b [c]",
    "a key twice": "license: a\nlicense: b",
    "keys of other types": "1: a\nnull: b\nlicense: mit",
    "results": "license: mit\nmodel-index:\n- name: x\n  results:\n  - task: {type: y}\n\ntags:\n- z",
    "other keys": "widget:\n- text: a\nlibrary_name: transformers\nlicense: mit\ninference: false",
    "unfinished": "license: mit",
}


def card(directory: Path, text: str, end: str = "---\n# Model\n") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / "README.md").write_text(f"---\n{text}\n{end}", encoding="utf-8", newline="")
    return directory


@pytest.mark.parametrize(
    "config", [{}, {"_name_or_path": "org/Name-1B-Instruct-v0.3"}, {"_name_or_path": "/a/b/c"}]
)
@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_good_card_gives_what_gguf_reads(text: str, config: dict[str, Any], tmp_path: Path) -> None:
    directory = card(
        tmp_path / "Some-Model-1.1B-chat", text, end="" if text == GOOD["unfinished"] else "---\nx"
    )
    (directory / "config.json").write_text(json.dumps(config))
    metadata, _ = general_metadata("llama", directory, COUNTS)
    assert list(typed(metadata).items()) == list(loaded_by_gguf(directory, COUNTS).items())


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
BAD: dict[str, tuple[str, str, str]] = {
    "no YAML": ("a: [", "card is left out", "$"),
    "template": ("name: {{ name }}\nlicense: mit", "expected text", "$.name"),
    "template as a line": ("{% for x in y %}", "cannot be read as YAML", "$"),
    "a list": ("- a", "not a YAML mapping", "$"),
    "aliases": (LAUGHS + "tags: *j", "aliases", "$"),
    "alias of itself": ("tags: &a [*a]", "aliases", "$"),
    "tags of Python": ("license: !!python/object/apply:os.system [id]", "python/object", "$.license"),
    "tags of its own": ("license: !mine mit\nname: x", "!mine", "$.license"),
    "bytes": ("license: !!binary aGk=", "binary", "$.license"),
    "a list called a text": ("tags: !!str [c]", "expected text", "$.tags"),
    "a text called a list": ("tags: !!seq c", "expected text", "$.tags"),
    "a text called a map": ("base_model: [!!map c]", "not a name", "$.base_model"),
    "null in tags": ("tags: [a, null]", "found null", "$.tags"),
    "list in tags": ("tags: [[a]]", "found a list", "$.tags"),
    "mapping as tags": ("tags: {a: b}", "found a mapping", "$.tags"),
    "mapping as a licence": ("license: {a: b}", "found a mapping", "$.license"),
    "list as a name": ("name: [a]", "found a list", "$.name"),
    "mapping as a model": ("base_model: {name: a}", "found a mapping", "$.base_model"),
    "list as a model": ("base_model: [[a]]", "found a list", "$.base_model"),
    "list in a model": ("base_model: [{name: [a]}]", "found a list", "$.base_model"),
    "half a surrogate pair": (r'name: "\ud800"', "surrogate", "$.name"),
    "control character": ("name: \x01", "special characters", "$"),
    "nested sequences": ("tags: " + "[" * 20_000, "20 levels", "$"),
    "nested blocks": ("- " * 30_000, "20 levels", "$"),
    "nested mappings": ("{a: " * 15_000, "20 levels", "$"),
    "too long": ("a: b\n" * 20_000, "too long", "$"),
    "megabytes": ("a: b\n" * 1_000_000, "more than 4194304 bytes", "$"),
    "two documents": ("a: b\n...\n--- c\n", "card is left out", "$"),
}


def understood(directory: Path) -> Model:
    """A small model with what is in this directory beside it."""
    return models.load(checkpoint(directory, files("llama"), shapes("llama")))


@pytest.mark.parametrize(("text", "says", "path"), BAD.values(), ids=BAD)
def test_a_bad_card_is_a_warning(text: str, says: str, path: str, tmp_path: Path) -> None:
    card(tmp_path, text)
    started = time.process_time()
    model = understood(tmp_path)
    assert time.process_time() - started < 20
    finding = model.warnings[0].finding
    assert (finding.rule, finding.severity, finding.path) == ("M-020", "warning", path)
    assert says in str(model.warnings[0]) and len(str(model.warnings[0])) < 1000
    assert model.warnings[0].file == str(tmp_path / "README.md")
    assert "general.name" in model.metadata


ODD_FILES: dict[str, tuple[bytes, str]] = {
    "Latin-1": ("---\nname: é\n---\n".encode("latin-1"), "not UTF-8"),
    "UTF-16": ("---\nname: a\n---\n".encode("utf-16"), "UTF-16"),
    "byte order mark": ("---\nname: a\n---\n".encode("utf-8-sig"), "byte order mark"),
}


@pytest.mark.parametrize(("content", "says"), ODD_FILES.values(), ids=ODD_FILES)
def test_a_card_in_another_encoding(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(content)
    (warning,) = understood(tmp_path).warnings
    assert warning.finding.rule == "M-020" and says in str(warning)


def test_the_text_below_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\r\nlicense: mit\r\n---\r\n\xff\xfe\r\n")
    model = understood(tmp_path)
    assert model.metadata["general.license"].value == "mit" and model.warnings == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("kind", ["pipe", "directory", "link out", "link to nothing"])
def test_a_card_that_is_no_file(kind: str, tmp_path: Path) -> None:
    place, outside = tmp_path / "checkpoint" / "README.md", tmp_path / "secret"
    place.parent.mkdir()
    outside.write_text("---\nlicense: secret\n---\n")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to(outside if kind == "link out" else "nothing")
    model = understood(place.parent)
    assert [warning.finding.rule for warning in model.warnings] == ["M-020"]
    assert "general.license" not in model.metadata


def test_values_as_they_are_written(tmp_path: Path) -> None:
    """Numbers, dates and truth values become the text that they were, not what YAML takes them for."""
    card(
        tmp_path,
        "name: 2024-01-01\nversion: 1.10\nauthor: 007\norganization: 2024-99-99\ntags: [yes, 1e3, 010]",
    )
    values = read_card(tmp_path)
    assert values["name"] == "2024-01-01" and values["version"] == "1.10" and values["author"] == "007"
    assert values["organization"] == "2024-99-99" and values["tags"] == ["yes", "1e3", "010"]


@pytest.mark.parametrize("value", ["1:" * 20_000 + "1", "1" * 6000, "0x" + "f" * 6000, "1_" * 3000 + "1"])
def test_a_number_of_any_length_is_text(value: str, tmp_path: Path) -> None:
    card(tmp_path, f"license: {value}")
    assert understood(tmp_path).metadata["general.license"].value == value


def test_a_long_table_of_results_does_not_count(tmp_path: Path) -> None:
    rows = "  - {task: x, value: 1}\n" * 20_000
    card(tmp_path, f"license: mit\nmodel-index:\n- name: x\n  results:\n{rows}tags:\n- a")
    with gathered_warnings() as warnings:
        assert read_card(tmp_path) == {"license": "mit", "tags": ["a"]}
    assert warnings == []


@pytest.mark.parametrize("name", ["x" * 400, "é" * 400, "a b" * 200, "." * 400, "x" * 60_000])
def test_a_long_name_makes_a_file_name_that_systems_take(name: str, tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path / "checkpoint")
    (directory / "README.md").write_text(f"---\nname: {name}\n---\n")
    out = prepare(directory, type="q8_0").targets[0].paths[0]
    assert len(f".{out.name}-00001-of-00001.gguf.partial".encode()) <= 255
    assert out.name.endswith(".gguf") and "Q8_0" in out.name


GENERATION: dict[str, tuple[str, str | None]] = {
    "text": ('{"temperature": "hot", "top_k": 5}', "$.temperature"),
    "huge": ('{"temperature": 99999999999999999999999999999999999999999, "top_k": 5}', "$.temperature"),
    "not finite": ('{"top_p": NaN, "top_k": 5}', "$.top_p"),
    "fraction": ('{"penalty_last_n": 1.5, "top_k": 5}', "$.penalty_last_n"),
    "penalty": ('{"repetition_penalty": [], "top_k": 5}', "$.repetition_penalty"),
    "no JSON": ('{"top_k": 5', "$"),
    "a list": ("[]", "$"),
    "large integers": ('{"temperature": 99999999999999999999, "top_k": 5}', None),
}


@pytest.mark.parametrize(("content", "path"), GENERATION.values(), ids=GENERATION)
def test_generation_config_never_stops_a_conversion(content: str, path: str | None, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    model = understood(tmp_path)
    assert [warning.finding.path for warning in model.warnings if warning.finding.rule == "M-042"] == (
        [] if path is None else [path]
    )
    assert ("general.sampling.top_k" in model.metadata) == (path != "$")


def test_a_value_that_does_not_fit_its_type_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        check_storable(Model("llama", {"llama.x": Value(ValueType.UINT32, -1)}, ()), Path("x"))
    assert caught.value.finding.rule == "M-030"


SEEDS = [*GOOD.values(), *(text[:3000] for text, *_ in BAD.values())]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_card_blocks_or_takes_long(tmp_path: Path, data: st.DataObject) -> None:
    """Seeds that are cut, repeated and spliced: text or a warning, never anything else, in bounded time."""
    text = data.draw(st.sampled_from(SEEDS))
    for _ in range(data.draw(st.integers(0, 4))):
        i, j = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        new = data.draw(
            st.sampled_from(
                [
                    text[i:j] * 3,
                    "&a ",
                    "*a",
                    "!!x ",
                    "[",
                    "{",
                    "- ",
                    "? ",
                    ": ",
                    "\n",
                    "'",
                    '"',
                    "|\n",
                    "%",
                    "\x00",
                    "\ud800",
                    "é",
                    "<<: ",
                ]
            )
            | st.text(max_size=8)
        )
        text = text[:i] + new + text[j:]
    (tmp_path / "config.json").write_text("{}")
    content = f"---\n{text}\n---\n".encode("utf-8", "surrogatepass")
    (tmp_path / "README.md").write_bytes(content)
    started = time.process_time()
    with gathered_warnings() as warnings:
        values = read_card(tmp_path)
        metadata, stem = general_metadata("llama", tmp_path, COUNTS)
    assert time.process_time() - started < 10
    assert len(json.dumps(values)) <= 8 * MAX_FRONT_MATTER_NBYTES
    assert all(isinstance(w.finding, Finding) and w.finding.rule == "M-020" for w in warnings)
    for value in metadata.values():
        for element in value.value if value.element_type else (value.value,):
            assert not isinstance(element, str) or element.encode("utf-8") is not None
    assert "/" not in stem
