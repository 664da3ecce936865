"""The tokenizer of every family gives the keys of llama.cpp's converter (fixtures/tokenizers.json)."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from gguflow.container.metadata import Metadata
from gguflow.models.differences import idle, unexplained
from gguflow.models.documents import Document
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.pre_hash import check_ids
from testing.tokenizer_cases import CASES, Case

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tokenizers.json"
PRE = "tokenizer.ggml.pre"


@functools.cache
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return found


def read(case: Case, directory: Path) -> TokenizerFiles:
    case.write(directory)
    config = Document.read(directory, "config.json")
    assert config is not None
    return TokenizerFiles.read(config, directory)


def plain(metadata: Metadata) -> dict[str, Any]:
    """Types and values as in the fixture."""
    return {key: [_type(value), _shortened(value.value)] for key, value in metadata.items()}


def _type(value: Any) -> str:
    return str(value.type.name)


def _shortened(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    items = list(value)
    if len(items) <= 600:
        return items
    return {
        "n": len(items),
        "first": items[:600],
        "sha256": hashlib.sha256(json.dumps(items).encode()).hexdigest(),
    }


def test_the_fixture_has_every_case() -> None:
    assert list(recorded()) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_keys_are_those_of_the_converter(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    files = read(case, tmp_path)
    module, function = case.function.split(".")
    ours = plain(getattr(importlib.import_module(f"gguflow.models.tokenizers.{module}"), function)(files))
    theirs = dict(recorded()[name]["keys"])
    theirs.pop("llama.vocab_size", None)  # of the model, where it is put for every family
    if "ids" in recorded()[name]:
        ours.pop(PRE), theirs.pop(PRE)
    names = [  # as text, in which 0 and 0.0 differ
        key for key in [*ours, *theirs] if json.dumps(ours.get(key)) != json.dumps(theirs.get(key))
    ]
    applied = files.config.applied.ids
    assert sorted(applied) == sorted(case.differences)
    assert not [(key, ours.get(key), theirs.get(key)) for key in unexplained(names, applied)]
    assert not idle(names, applied)


@pytest.mark.parametrize("name", [name for name, record in recorded().items() if "ids" in record])
def test_the_ids_that_are_hashed_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    assert check_ids(read(CASES[name], tmp_path)) == recorded()[name]["ids"]
