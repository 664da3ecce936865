"""`gguflow inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguflow.cli import main
from gguflow.container.metadata import string
from gguflow.container.writer import build


def test_inspect(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "general.architecture" in shown and '"llama"' in shown
    assert "string[4096]" in shown and "…]" in shown, "long arrays are abridged"
    assert "blk.1.ffn_down.weight" in shown
    assert main(["inspect", str(model), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["metadata"]["tokenizer.ggml.tokens"]) == 4096
    down = next(tensor for tensor in data["tensors"] if tensor["name"] == "blk.1.ffn_down.weight")
    assert (down["shape"], down["format"], down["nbytes"]) == ([64, 96], "Q8_0", 64 * 96 // 32 * 34)


def test_what_is_shown_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(build({"general.name": string("\x1b[2J\x07evil\u202e"), "k\x1b": string("v")}, ()))
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "evil" in shown
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
