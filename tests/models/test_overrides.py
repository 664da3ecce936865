"""What the user says of a model, in place of its files: a name, and a file of metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguflow import conversion
from gguflow.cli import main
from gguflow.container.metadata import string
from gguflow.errors import FileError, GguflowError, UsageError
from gguflow.models.general import ParameterCounts, general_metadata
from gguflow.models.general_fields import FIELDS, Kind
from gguflow.models.overrides import Overrides
from testing.checkpoints import tiny_llama
from testing.gguf_metadata import loaded_by_gguf, typed

COUNTS = ParameterCounts(1_100_000_000, 1_100_000_000, 0, 0)

CARD = """---
license: mit
name: Of The Card
author: somebody
tags: [a, b]
base_model: org/Base-1B-v2
datasets: [org/data]
---
"""
GENERATION = {
    "sequence": "top_k;top_p",
    "top_k": 50,
    "top_p": 0.9,
    "min_p": 0.05,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.2,
    "temperature": 0.6,
    "penalty_last_n": -1,
    "repetition_penalty": 1.05,
    "mirostat": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
}


def model(directory: Path, generation: dict[str, Any] = GENERATION) -> Path:
    """A directory with a card and everything else that keys are made of."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"_name_or_path": "org/Name-1B-Instruct-v0.3"}))
    (directory / "README.md").write_text(CARD)
    (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


EVERY_FIELD: dict[str, Any] = {
    f"general.{name}": {
        Kind.TEXT: f"the {name}",
        Kind.WHOLE: 7,
        Kind.NUMBER: 0.3,
        Kind.TEXTS: ["x", "y"],
        Kind.ORIGINS: [{"name": "A", "organization": "B", "repo_url": "https://c"}, {}, {"doi": "d"}],
    }[kind]
    for name, kind in FIELDS.items()
    if name != "license"
}

SAID: dict[str, tuple[dict[str, Any], str | None]] = {
    "nothing": ({}, None),
    "a name": ({}, "My Model"),
    "a name in the file": ({"general.name": "Of The File"}, None),
    "a name in both": ({"general.name": "Of The File"}, "My Model"),
    "every field": (EVERY_FIELD, None),
    "every field in another order": (dict(reversed(EVERY_FIELD.items())), None),
    "every field removed": (dict.fromkeys(EVERY_FIELD), None),
    "parts of the name": (
        {"general.basename": "b a", "general.finetune": "f/g", "general.version": "v 3"},
        None,
    ),
    "empty": (
        {
            "general.author": "",
            "general.tags": [],
            "general.base_models": [],
            "general.datasets": [{"name": ""}],
        },
        None,
    ),
    "whole numbers": ({"general.sampling.temp": 1, "general.sampling.top_k": -1}, None),
}


@pytest.mark.parametrize("generation", [GENERATION, {}, {"penalty_repeat": 1.1, "repetition_penalty": 1.3}])
@pytest.mark.parametrize(("said", "name"), SAID.values(), ids=SAID)
def test_the_keys_are_those_that_gguf_writes(
    said: dict[str, Any], name: str | None, generation: dict[str, Any], tmp_path: Path
) -> None:
    directory = model(tmp_path / "Some-Model", generation)
    file = tmp_path / "said.json"
    file.write_text(json.dumps(said))
    metadata, _ = general_metadata("llama", directory, COUNTS, Overrides.read(file, name))
    expected = loaded_by_gguf(directory, COUNTS, file, name)
    assert list(typed(metadata).items()) == list(expected.items())


def test_a_licence_can_be_set_too(tmp_path: Path) -> None:
    """gguf ignores it."""
    file = tmp_path / "said.json"
    file.write_text('{"general.license": "apache-2.0"}')
    metadata, _ = general_metadata("llama", model(tmp_path / "m"), COUNTS, Overrides.read(file))
    assert metadata["general.license"] == string("apache-2.0")


BAD: dict[str, tuple[str, str, str, str]] = {
    "misspelt": ('{"general.authr": "x"}', "M-027", '$["general.authr"]', "did you mean general.author"),
    "of the model": (
        '{"llama.context_length": 1}',
        "M-027",
        '$["llama.context_length"]',
        "expected a key about origin or sampling (general.author); --override-kv",
    ),
    "as in the file": (
        '{"general.base_model.0.name": "x"}',
        "M-027",
        '$["general.base_model.0.name"]',
        "general.base_models",
    ),
    "a number as text": ('{"general.name": 5}', "M-027", '$["general.name"]', "a string"),
    "text as a number": ('{"general.sampling.temp": "hot"}', "M-027", '$["general.sampling.temp"]', "number"),
    "a huge number": ('{"general.sampling.temp": 1e300}', "M-027", '$["general.sampling.temp"]', "float32"),
    "a fraction": ('{"general.sampling.top_k": 1.5}', "M-027", '$["general.sampling.top_k"]', "an integer"),
    "beyond 32 bits": ('{"general.sampling.top_k": 2147483648}', "M-027", "", "an integer"),
    "text as a list": ('{"general.tags": "x"}', "M-027", '$["general.tags"]', "a list"),
    "a number in a list": ('{"general.tags": ["x", 1]}', "M-027", '$["general.tags"][1]', "a string"),
    "an object as a list": ('{"general.datasets": {}}', "M-027", '$["general.datasets"]', "a list"),
    "text in a list": ('{"general.datasets": ["x"]}', "M-027", '$["general.datasets"][0]', "an object"),
    "unknown in an origin": (
        '{"general.datasets": [{"nmae": "x"}]}',
        "M-027",
        '$["general.datasets"][0].nmae',
        "did you mean name",
    ),
    "a number in an origin": (
        '{"general.datasets": [{"name": 1}]}',
        "M-027",
        '$["general.datasets"][0].name',
        "a string",
    ),
    "a list": ("[]", "M-021", "$", "not a JSON object"),
    "no JSON": ("{", "J-002", "", ""),
    "a key twice": ('{"general.name": "a", "general.name": "b"}', "J-003", "", ""),
    "half a surrogate pair": (r'{"general.name": "\ud800"}', "J-006", "", ""),
    "large": ('{"general.name": "' + "x" * (2 << 20) + '"}', "M-022", "$", "larger"),
}


@pytest.mark.parametrize(("content", "rule", "path", "says"), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_used(content: str, rule: str, path: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    file.write_text(content)
    with pytest.raises(FileError) as caught:
        Overrides.read(file)
    assert caught.value.finding.rule == rule
    assert path in ("", caught.value.finding.path)
    assert says in str(caught.value) and str(file) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """gguf goes on without it."""
    with pytest.raises(GguflowError, match=r"nothing\.json"):
        Overrides.read(tmp_path / "nothing.json")
    with pytest.raises(FileError):
        Overrides.read(tmp_path)


@pytest.mark.parametrize("name", ["", " ", "\ud800", 5])
def test_a_name_that_is_none(name: Any) -> None:
    with pytest.raises(UsageError, match="--model-name"):
        Overrides.read(None, name)


def test_the_command_sets_keys_and_the_name_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_llama(tmp_path / "checkpoint")
    file = tmp_path / "said.json"
    file.write_text('{"general.author": "me", "general.version": "v9", "general.finetune": "chat"}')
    monkeypatch.chdir(tmp_path)
    before = conversion.prepare(source, type="q8_0").targets[0].plans[0].metadata
    arguments = ["convert", str(source), "-t", "q8_0", "--model-name", "New Name", "--metadata", str(file)]
    assert main([*arguments, "--dry-run", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)["metadata"]
    assert (after["general.name"], after["general.author"]) == ("New Name", "me")
    assert [key for key in after if not key.startswith("general.")] == [
        key for key in before if not key.startswith("general.")
    ]
    assert list(after)[:2] == list(before)[:2] == ["general.architecture", "general.type"]
    prepared = conversion.prepare(source, type="q8_0", model_name="New Name", metadata_file=file)
    assert (
        prepared.targets[0].paths[0].name == "New-Name-" + after["general.size_label"] + "-chat-v9-Q8_0.gguf"
    )


@pytest.mark.parametrize("options", [{"model_name": "x"}, {"metadata_file": "said.json"}])
@pytest.mark.parametrize("kind", ["GGUF", "--arch"])
def test_only_for_checkpoints_with_a_configuration(
    kind: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, architecture = tiny_llama(tmp_path / "checkpoint"), None
    (tmp_path / "said.json").write_text('{"general.author": "me"}')
    monkeypatch.chdir(tmp_path)
    if kind == "GGUF":
        conversion.convert(source, tmp_path / "x.gguf", type="f16")
        source = tmp_path / "x.gguf"
    else:
        architecture = "flux"
    with pytest.raises(UsageError, match="--override-kv"):
        conversion.prepare(source, type="f16", architecture=architecture, **options)  # type: ignore[arg-type]
