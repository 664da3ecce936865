"""The kernel cache: it may be absent, it is used, and it never replays machine code of other sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflow
from testing.checkpoints import write_safetensors

pytestmark = pytest.mark.cold

PACKAGE = Path(gguflow.__file__).parent

PROBE = """
import json, sys
import numpy as np
from gguflow.kernels import bf16, policy
packed = np.array([0x3FC0, 0xC000], "<u2").view(np.uint8)
out = np.empty(2, np.float32)
bf16.dequantize_blocks(packed, out)
stats = bf16.dequantize_blocks.stats
directory = policy.cache_directory()
json.dump({"values": out.tolist(), "directory": directory and str(directory),
           "hits": sum(stats.cache_hits.values()), "misses": sum(stats.cache_misses.values())}, sys.stdout)
"""


def run(
    cache: Path | str | None, package_parent: Path = PACKAGE.parent, **environment: str
) -> dict[str, Any]:
    """One kernel in a fresh process. cache: GGUFLOW_CACHE_DIR, or None to leave it to the platform."""
    variables = {
        key: value for key, value in os.environ.items() if key not in ("GGUFLOW_CACHE_DIR", "XDG_CACHE_HOME")
    }
    variables |= {"PYTHONPATH": str(package_parent), **environment}
    if cache is not None:
        variables["GGUFLOW_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["values"] == [1.5, -2.0]
    return report


def test_second_process_hits(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "there" / "yet"
    first, second = run(cache), run(cache)
    assert (first["hits"], first["misses"]) == (0, 1)
    assert (second["hits"], second["misses"]) == (1, 0)
    assert first["directory"] == second["directory"]
    if os.name == "posix":
        assert (
            Path(first["directory"]).stat().st_mode & 0o077 == 0
        )  # machine code: nobody else may write it, or read it


@pytest.mark.parametrize("place", ["below a file", "below /proc"])
def test_no_cache_can_be_written(tmp_path: Path, place: str) -> None:
    """No permission bits: they do not stop root, whom containers run as."""
    (tmp_path / "file").write_text("not a directory")
    if place == "below /proc" and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    report = run(tmp_path / "file" / "cache" if place == "below a file" else "/proc/gguflow")
    assert report["directory"] is None
    assert report["hits"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is for Linux")
def test_platform_directory_and_no_home(tmp_path: Path) -> None:
    report = run(None, XDG_CACHE_HOME=str(tmp_path))
    assert Path(report["directory"]).parent == tmp_path / "gguflow"
    home = tmp_path / "home"
    report = run(None, XDG_CACHE_HOME="relative", HOME=str(home))  # which the specification says to ignore
    assert Path(report["directory"]).parent == home / ".cache" / "gguflow"
    (tmp_path / "file").write_text("not a directory")
    assert run(None, HOME=str(tmp_path / "file"))["directory"] is None


@pytest.mark.parametrize("changed", ["kernels/lanes.py", "kernels/bits.py", "kernels/policy.py"])
def test_changed_sources_begin_a_new_cache(tmp_path: Path, changed: str) -> None:
    """bf16 uses lanes.py; a cache that looked only at bf16.py would replay the code from before the
    change.
    """
    shutil.copytree(PACKAGE, tmp_path / "gguflow", ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"
    before = run(cache, tmp_path)
    assert before["misses"] == 1
    with (tmp_path / "gguflow" / changed).open("a") as file:
        file.write("\n# a change\n")
    after = run(cache, tmp_path)
    assert after["directory"] != before["directory"]
    assert (after["hits"], after["misses"]) == (0, 1)


def test_a_copy_of_the_package_elsewhere_shares_nothing_stale(tmp_path: Path) -> None:
    """Same sources, other place: the cache may serve both, and does."""
    for place in ("a", "b"):
        shutil.copytree(PACKAGE, tmp_path / place / "gguflow", ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"
    assert run(cache, tmp_path / "a")["misses"] == 1
    assert run(cache, tmp_path / "b")["hits"] == 1


def test_caches_that_nothing_uses_are_removed(tmp_path: Path) -> None:
    year_ago = time.time() - 365 * 86400
    for name, age in (("kernels-old", year_ago), ("kernels-recent", time.time())):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "a.nbi").touch()
        os.utime(directory, (age, age))
    other = tmp_path / "someone-else's"
    other.mkdir()
    os.utime(other, (year_ago, year_ago))
    report = run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "kernels-recent",
        "someone-else's",
        Path(report["directory"]).name,
    }


def test_kernels_that_must_not_be_compiled(tmp_path: Path) -> None:
    """Without compilation there are no kernels: said so, by the command line too."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "NUMBA_DISABLE_JIT": "1"}
    quantize = [sys.executable, "-c", "import gguflow; gguflow.quantize([0.0] * 32, 'q8_0')"]
    done = subprocess.run(quantize, env=environment, capture_output=True, text=True, check=False)
    assert "UsageError: gguflow's kernels are compiled by Numba, and NUMBA_DISABLE_JIT=1" in done.stderr
    source = write_safetensors(tmp_path / "x.safetensors", {"a": np.ones((2, 32), np.float32)})
    convert = [sys.executable, "-m", "gguflow", "convert", str(source), "--arch", "x", "-t", "q8_0"]
    done = subprocess.run(
        [*convert, "-o", str(tmp_path / "out.gguf")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "unset the variable" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.gguf").exists()
