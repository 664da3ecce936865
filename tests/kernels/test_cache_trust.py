"""The kernel cache is only a cache: what is cut, foreign or beyond the room that there is costs a
compilation, and nothing that somebody else could have written is unpickled.
"""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernels.test_kernel_cache import PACKAGE, PROBE, run

pytestmark = [
    pytest.mark.cold,
    pytest.mark.skipif(os.name == "nt", reason="owners and permissions of POSIX"),
]


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


DAMAGE: dict[str, Callable[[bytes, Path], bytes]] = {
    "empty": lambda content, marker: b"",
    "cut": lambda content, marker: content[: len(content) // 2],
    "cut by a byte": lambda content, marker: content[:-1],
    "zeros at the end": lambda content, marker: content[:-64] + bytes(64),
    "a flipped bit": lambda content, marker: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "no pickle": lambda content, marker: b"not a pickle",
    "a pickle without its digest": lambda content, marker: pickle.dumps(Bomb(marker)),
    "a pickle behind another digest": lambda content, marker: content[:32] + pickle.dumps(Bomb(marker)),
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_compiled_afresh_and_replaced(tmp_path: Path, suffix: str, damage: str) -> None:
    cache, marker = tmp_path / "cache", tmp_path / "marker"
    directory = Path(run(cache)["directory"])
    files = list(directory.glob(f"*{suffix}"))
    assert files
    for path in files:
        path.write_bytes(DAMAGE[damage](path.read_bytes(), marker))
    assert run(cache)["hits"] == 0
    assert run(cache)["hits"] == 1
    assert not marker.exists()


def test_files_are_bound_to_their_names(tmp_path: Path) -> None:
    directory = Path(run(tmp_path)["directory"])
    index, data = next(directory.glob("*.nbi")), next(directory.glob("*.nbc"))
    data.write_bytes(index.read_bytes())
    assert run(tmp_path)["hits"] == 0


WRITABLE = {
    "the directory by all": (0o777, None, None),
    "the directory by a group": (0o770, None, None),
    "the files by all": (0o700, 0o666, None),
    "the files by a group": (0o700, 0o660, None),
    "the directory above by all": (0o700, None, 0o777),
}


@pytest.mark.parametrize(("directory_mode", "file_mode", "base_mode"), WRITABLE.values(), ids=WRITABLE)
def test_what_others_may_write_to_is_not_read(
    tmp_path: Path, directory_mode: int, file_mode: int | None, base_mode: int | None
) -> None:
    cache = tmp_path / "cache"
    directory = Path(run(cache)["directory"])
    directory.chmod(directory_mode)
    if base_mode is not None:
        cache.chmod(base_mode)
    if file_mode is not None:
        for path in directory.iterdir():
            path.chmod(file_mode)
    report = run(cache)
    assert report["hits"] == 0
    assert (report["directory"] is None) == (file_mode is None)
    if file_mode is not None:
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in directory.iterdir())
        assert run(cache)["hits"] == 1


@pytest.mark.parametrize("what", ["directory", "files", "hard links"])
def test_links_are_not_followed(tmp_path: Path, what: str) -> None:
    cache = tmp_path / "cache"
    directory = Path(run(cache)["directory"])
    elsewhere = tmp_path / "elsewhere"
    if what == "directory":
        directory.rename(elsewhere)
        directory.symlink_to(elsewhere)
    else:
        elsewhere.mkdir(mode=0o700)
        for path in list(directory.iterdir()):
            path.rename(elsewhere / path.name)
            if what == "files":
                path.symlink_to(elsewhere / path.name)
            else:
                os.link(elsewhere / path.name, path)
    report = run(cache)
    assert report["hits"] == 0
    assert (report["directory"] is None) == (what == "directory")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("what", ["directory", "files", "the directory above"])
def test_what_belongs_to_another_user_is_not_read(tmp_path: Path, what: str) -> None:
    directory = Path(run(tmp_path)["directory"])
    places = {"directory": [directory], "the directory above": [tmp_path]}
    for path in places.get(what) or list(directory.iterdir()):
        os.chown(path, 65534, 65534)
    report = run(tmp_path)
    assert report["hits"] == 0
    assert (report["directory"] is None) == (what != "files")


def test_a_directory_that_all_may_write_to_but_not_exchange_in(tmp_path: Path) -> None:
    """As /tmp."""
    tmp_path.chmod(0o1777)
    assert run(tmp_path)["misses"] == 1
    assert run(tmp_path)["hits"] == 1


@pytest.mark.parametrize("nbytes", [0, 100, 5000])
def test_no_room_for_a_file(tmp_path: Path, nbytes: int) -> None:
    """As a full disk: the limit is on the size of each file. Nothing half-written is left."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({nbytes}, {nbytes}))\n{PROBE}"
    limited = limited.replace("json.dump(", "print(json.dumps(").replace(
        ", sys.stdout)", "), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "GGUFLOW_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", limited]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"values": [1.5, -2.0]' in done.stderr
    for path in tmp_path.rglob("*.nb*"):
        assert path.stat().st_size <= nbytes and path.suffix in (".nbi", ".nbc")
    assert run(tmp_path)["hits"] == 0
    assert run(tmp_path)["hits"] == 1


def test_one_warning_at_most(tmp_path: Path) -> None:
    directory = Path(run(tmp_path)["directory"])
    directory.chmod(0o777)
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "GGUFLOW_CACHE_DIR": str(tmp_path)}
    for filters, n in (("always", 1), ("error", 0), ("ignore", 0)):
        command = [sys.executable, "-W", filters, "-c", PROBE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr.count("compiled kernels are not kept") == n
