"""`gguflow formats`."""

from __future__ import annotations

import json

import pytest

from gguflow.blocks import FORMATS
from gguflow.cli import main
from gguflow.parametric import presets


def test_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == [*FORMATS, *presets()]
    q4_k = next(entry for entry in listed if entry["name"] == "q4_k")
    assert (
        q4_k.items()
        >= {"name": "q4_k", "id": 12, "block_size": 256, "type_size": 144, "bits_per_weight": 4.5}.items()
    )
    assert main(["formats"]) == 0
    shown = [line.split()[0].lower() for line in capsys.readouterr().out.splitlines() if line]
    assert shown == ["format", *FORMATS, "encoding", *presets(), "each"]
