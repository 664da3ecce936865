"""`gguflow compare`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gguflow import conversion
from gguflow.cli import main
from testing.checkpoints import tiny_llama, write_safetensors


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "checkpoint", hidden=256, ffn=512, n_layers=2, dtype="bfloat16")


def test_the_command_line(tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conversion.convert(llama, tmp_path / "q.gguf", type="q4_k_m")
    page = tmp_path / "page.html"
    page.write_text("old")
    assert main(["compare", str(llama), str(tmp_path / "q.gguf"), "--json", "--plot", str(page)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["tensors"]) == 21 and data["total"]["snr_db"] > 20
    assert {
        "name",
        "shape",
        "format_a",
        "rmse",
        "relative_error",
        "snr_db",
        "cosine",
        "worst_rows",
        "nbytes_b",
    } <= data["tensors"][0].keys()
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert main(["compare", str(llama), str(tmp_path / "q.gguf")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[0].split()[:2] == ["tensor", "formats"]
        and "exact" in "".join(shown)
        and shown[22].startswith("all ")
    )


BAD_CALLS = {
    "nothing in common": (
        ["compare", "x.safetensors", "y.safetensors"],
        2,
        "no tensor in common: the first has x, the second y",
    ),
    "a picture of another kind": (
        ["compare", "x.safetensors", "x.safetensors", "--plot", "x.gif"],
        2,
        "ends in .html or .png",
    ),
    "no such file": (["compare", "x.safetensors", "z.safetensors"], 4, "z.safetensors"),
    "no threads": (
        ["compare", "x.safetensors", "x.safetensors", "--threads", "0"],
        2,
        "threads must be an integer from 1",
    ),
    "weights that are none": (["compare", "x.safetensors", "bool.safetensors"], 3, "S-019"),
}


@pytest.mark.parametrize(("arguments", "status", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls(
    tmp_path: Path,
    arguments: list[str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        write_safetensors(tmp_path / f"{name}.safetensors", {name: np.ones(4, np.float32)})
    header = b'{"x":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}'
    (tmp_path / "bool.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert main(arguments) == status
    assert message in capsys.readouterr().err
