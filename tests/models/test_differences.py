"""The table of the intended differences from llama.cpp, and the collector of those that applied."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gguflow.cli import main
from gguflow.models.differences import (
    DIFFERENCES,
    Applied,
    Difference,
    Scope,
    by_id,
    idle,
    unexplained,
)
from testing.families import random_checkpoint


def test_ids_are_words_and_unique() -> None:
    ids = [difference.id for difference in DIFFERENCES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", identifier) for identifier in ids)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.id)
def test_a_row_is_whole(difference: Difference) -> None:
    """What is in a file says where in it; what is in none excuses nothing; all texts are one line."""
    assert bool(difference.keys or difference.tensors) == (difference.scope is not Scope.NO_FILE)
    for text in (difference.condition, difference.ours, difference.peer, difference.reason):
        assert text and "\n" not in text and "|" not in text
    assert difference.reason.endswith(".") and not difference.condition.endswith(".")


def test_a_row_covers_whole_names() -> None:
    own = by_id("own-keys")
    assert own.covers("gguflow.recipe")
    assert not own.covers("general.gguflow.recipe") and not own.covers("gguflow")
    assert not by_id("non-finite").covers("")


def test_what_applied_is_kept_once_and_must_be_a_row_of_checkpoints() -> None:
    with pytest.raises(KeyError):
        Applied().add("no-such-difference")
    with pytest.raises(KeyError):
        Applied().add("own-keys")


NAMES = ["gguflow.recipe", "tokenizer.ggml.scores", "blk.0.attn_q.weight"]


@pytest.mark.parametrize(
    ("names", "applied", "left", "idle_rows"),
    [
        ([], (), [], []),
        (NAMES, (), NAMES[1:], []),
        (NAMES, ("scores-from-merges",), NAMES[2:], []),
        (NAMES[:1], ("scores-from-merges",), [], ["scores-from-merges"]),
        (NAMES[:2], ("scores-from-merges", "no-space-prefix"), [], ["no-space-prefix"]),
    ],
    ids=["equal", "none applied", "one applied", "applied, and nothing differs", "one of two is idle"],
)
def test_what_a_comparison_excuses(
    names: list[str], applied: tuple[str, ...], left: list[str], idle_rows: list[str]
) -> None:
    """What no row covers is left, and what every file has is excused; an applied row must have an effect."""
    assert unexplained(names, applied) == left
    assert idle(names, applied) == idle_rows


def test_a_conversion_names_the_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once on stderr unless --quiet, and in --json, of a plan and of a report; a GGUF source has none."""
    source = random_checkpoint(tmp_path / "model", "llama")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(config | {"pad_token_id": 9999}), encoding="utf-8")
    out = str(tmp_path / "out.gguf")
    row = "special-id-beyond-vocabulary"
    common = ["convert", str(source), "-t", "f16,f32", "-o", str(tmp_path / "{type}.gguf"), "--json"]
    for extra in (["--dry-run"], []):
        assert main([*common, *extra]) == 0
        printed, noted = capsys.readouterr()
        assert noted.count(f"unlike llama.cpp ({row}): {by_id(row).note}\n") == 1
        assert [part["differences"] for part in json.loads(printed)] == [[row], [row]]
    assert main(["convert", str(source), "-t", "f16", "-o", out, "-q"]) == 0
    assert row not in capsys.readouterr().err
    assert main(["convert", out, "-t", "f32", "-o", str(tmp_path / "again.gguf"), "--json"]) == 0
    printed, noted = capsys.readouterr()
    assert json.loads(printed)["differences"] == [] and "unlike" not in noted


def test_the_page_is_what_the_table_says() -> None:
    """tools/render_docs writes it; every row has its section, and no other."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "differences.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == [difference.id for difference in DIFFERENCES]
    assert all(difference.note in page for difference in DIFFERENCES)
