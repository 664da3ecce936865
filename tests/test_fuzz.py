"""The short form of tools/fuzz: a few thousand mutations of the corpus through each target, a few hundred
inputs for each property; the same ones in every run.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from testing.fuzzing.mutation import mutated
from testing.fuzzing.properties import PROPERTIES, check
from testing.fuzzing.targets import TARGETS, seeds

FILES = Path(__file__).resolve().parent.parent / "fixtures" / "files"
EXECUTIONS = {
    "reader": 4000,
    "agreement": 1500,
    "blocks": 1500,
    "limits": 3000,
    "json": 3000,
    "safetensors-header": 1500,
    "imatrix-file": 1500,
    "journal-file": 1500,
    "safetensors": 1500,
    "loader": 1000,
    "payload": 1500,
    "running": 300,
}


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_raise_nothing_of_their_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testing.fuzzing.targets._scratch", lambda: tmp_path / "fuzzed.safetensors")
    files = seeds(name, FILES)
    rng = random.Random(name)
    for _ in range(EXECUTIONS[name]):
        TARGETS[name](mutated(files, rng))


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_of_the_small_parsers(name: str) -> None:
    tried, _ = check(name, 300, seed=0)
    assert tried >= 300
