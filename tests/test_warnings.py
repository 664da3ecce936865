"""The channel by which the library says what is doubtful about a file, and how the command line shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gguflow
from gguflow import models, sources
from gguflow.cli import main
from gguflow.errors import MAX_WARNINGS, FileWarning, Finding, gathered_warnings, warn
from testing.checkpoints import tiny_llama

ODD = Finding("M-999", "odd", "$.key", found=7)


def test_warnings_are_gathered_once_and_in_order() -> None:
    with gathered_warnings() as outer:
        warn("a.json", ODD)
        with gathered_warnings() as inner:
            warn(Path("b.json"), ODD)
        warn("a.json", ODD)
        warn("a.json", Finding("M-998", "odd too"))
    assert [(warning.file, warning.finding.rule) for warning in outer] == [
        ("a.json", "M-999"),
        ("a.json", "M-998"),
    ]
    assert [str(warning) for warning in inner] == ["b.json: M-999: odd; found 7 (at $.key)"]
    assert {warning.finding.severity for warning in (*outer, *inner)} == {"warning"}


def test_warnings_are_bounded_and_nobody_has_to_gather_them() -> None:
    warn("a.json", ODD)
    with gathered_warnings() as gathered:
        for i in range(3 * MAX_WARNINGS):
            warn("a.json", Finding("M-999", f"odd {i}"))
    assert len(gathered) == MAX_WARNINGS + 1
    assert "more warnings" in gathered[-1].finding.message


@pytest.fixture
def doubtful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that is warned about while it is opened and while it is understood."""
    opened, understand = sources.open_checkpoint, models._understand

    def open_checkpoint(*arguments: Any, **options: Any) -> object:
        warn("first.json", ODD)
        return opened(*arguments, **options)

    def understood(*arguments: object) -> object:
        warn("second\x1b.json", ODD)
        return understand(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sources, "open_checkpoint", open_checkpoint)
    monkeypatch.setattr(models, "_understand", understood)
    return tiny_llama(tmp_path / "checkpoint")


def test_warnings_reach_the_caller(doubtful: Path, tmp_path: Path) -> None:
    report = gguflow.convert(doubtful, tmp_path / "out.gguf", type="q8_0")
    assert FileWarning("first.json", Finding("M-999", "odd", "$.key", found=7, severity="warning")) in (
        report.warnings
    )
    assert [warning.file for warning in report.warnings][:2] == ["first.json", "second\x1b.json"]


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["converted", "dry run"])
def test_the_command_shows_each_warning_once(
    options: list[str], doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out-{type}.gguf")
    command = ["convert", str(doubtful), "-o", out, "-t", "q8_0,f16", *options]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("gguflow: warning: first.json: M-999: odd; found 7 (at $.key)\n") == 1
    assert captured.err.count("warning: second\\x1b.json") == 1
    for report in json.loads(captured.out):
        assert report["warnings"][0] == {
            "file": "first.json",
            "rule": "M-999",
            "severity": "warning",
            "path": "$.key",
            "offset": None,
            "found": 7,
            "expected": None,
            "message": "odd",
        }
    assert main([*command, "--quiet", "--overwrite"]) == 0
    assert "warning" not in capsys.readouterr().err
