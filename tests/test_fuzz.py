"""The short form of tools/fuzz: a few thousand mutations of the corpus through each target, the same ones in every run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzzing.mutation import mutated
from fuzzing.targets import SUFFIX, TARGETS

FILES = Path(__file__).resolve().parent.parent / "fixtures" / "files"
EXECUTIONS = {"reader": 4000, "agreement": 1500, "blocks": 1500, "safetensors": 1500, "loader": 1000}


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_raise_nothing_of_their_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.targets._scratch", lambda: tmp_path / "fuzzed.safetensors")
    seeds = [path.read_bytes() for path in sorted(FILES.rglob(f"*{SUFFIX.get(name, '.gguf')}")) if path.stat().st_size < 1 << 14]
    rng = random.Random(name)
    for _ in range(EXECUTIONS[name]):
        TARGETS[name](mutated(seeds, rng))
