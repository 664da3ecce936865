"""tools/bench keeps running; its figures are for people."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent / "tools" / "bench"


def test_formats_prints_a_row_of_ratios() -> None:
    command = [
        sys.executable,
        str(BENCH),
        "formats",
        "--only",
        "q8_0,q4_0",
        "--weights",
        "65536",
        "--importance",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if re.match(r"Q\d", line)}
    assert list(rows) == ["Q8_0", "Q4_0"]
    for figures in rows.values():
        assert len(figures) == 7 and all(float(figure) > 0 for figure in figures)


def test_matmul_prints_a_row_of_ratios() -> None:
    """Of a format with products of its own, one without, one that gguf-py cannot decode."""
    command = [
        sys.executable,
        str(BENCH),
        "matmul",
        "--only",
        "q8_0,q5_1,q2_0",
        "--megabytes",
        "1",
        "--weights",
        "65536",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if re.match(r"Q\d", line)}
    assert list(rows) == ["Q8_0", "Q5_1", "Q2_0"]
    for figures in rows.values():
        assert len(figures) == 10 and all(figure == "-" or float(figure) > 0 for figure in figures)


def test_unknown_formats_are_named() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "formats", "--only", "q9_9"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "q9_9" in done.stderr


def test_fidelity_prints_gains_and_shares() -> None:
    command = [
        *(sys.executable, str(BENCH), "fidelity", "--only", "q8_0,q4_k", "--weights", "65536"),
        *("--columns", "256", "--rows", "32", "--feedback-formats", "q4_k"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"Q\d", line)]
    assert [row[0] for row in rows] == ["Q8_0", "Q4_K", "Q4_K", "Q4_K"]
    assert all(float(row[4]) > 0 for row in rows[:2])  # the gain in dB
    assert float(rows[3][-1]) < float(rows[2][-1]) < 1  # what is left after descent, and before
