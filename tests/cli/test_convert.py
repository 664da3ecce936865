"""`gguflow convert` as people and scripts meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gguflow.cli import main
from testing.checkpoints import TINY, tiny_llama


def test_convert_for_people(tmp_path: Path) -> None:
    """The table on stderr, the path on stdout, llama.cpp's file name."""
    done = subprocess.run(
        [sys.executable, "-m", "gguflow", "convert", str(TINY)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Tiny-Py-Llama-8.4M-Q4_K_M.gguf\n"
    assert (tmp_path / done.stdout.strip()).stat().st_size > 4_000_000
    for word in ("Q4_K", "Q6_K", "F32", "bits per weight", "M weights/s"):
        assert word in done.stderr


def test_convert_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(TINY), "-o", str(out), "-t", "Q6_K", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert report["output"] == str(out)
    assert report["nbytes"] == out.stat().st_size
    assert report["n_weights"] == sum(total["n_weights"] for total in report["formats"].values()) == 8_392_960


def test_dry_run_reads_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is exact: the same tensors, offsets and size as the file, from the headers alone."""
    directory = tiny_llama(tmp_path / "checkpoint")
    out = tmp_path / "out.gguf"
    assert main(["convert", str(directory), "-o", str(out), "-t", "q4_k_m", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert main(["convert", str(directory), "-o", str(out), "-t", "q4_k_m", "-q"]) == 0
    assert plan["nbytes"] == out.stat().st_size
    capsys.readouterr()
    assert main(["inspect", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert all(tensor.pop("rule") for tensor in plan["tensors"])
    assert shown["tensors"] == plan["tensors"]
    digests = {"gguflow.integrity.length", "gguflow.integrity.header", "gguflow.integrity.tensors"}
    assert all(
        shown["metadata"][key] == value for key, value in plan["metadata"].items() if key not in digests
    )
    assert main(["convert", str(directory), "-t", "q4_k_m", "--dry-run"]) == 0
    assert f"{plan['nbytes']:,} bytes" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["12X", "-1", "1.5G", "", "GM"])
def test_sizes_that_are_none(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(TINY), "-o", "out.gguf", f"--memory-limit={size}", "-q"]) == 2
    assert f"not a size: {size!r}" in capsys.readouterr().err
