"""The system refuses, from outside: a library between the process and the system (failing_calls.c, compiled
when it is needed) lets the n-th write, fsync, rename, close... fail, or all writes be short; and temporary
files that are not ours stand where ours would be.

After each fault the old file stands, or the new one whole; no traceback; and the same command, undisturbed,
gives the bytes of one that nothing disturbed.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

CALLS = {
    "write": True,
    "read": True,
    "fsync": True,
    "rename": True,
    "truncate": True,
    "allocate": True,
    "open": True,
    "close": False,
    "flock": False,
    "unlink": False,
    "chmod": False,
}
"""What can fail, and whether that must stop a command: locks are not to be had everywhere, and what is closed
or removed is not needed any more.
"""

ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}

ROWS = """
import sys, numpy as np
from gguflow.cli import main
from gguflow.errors import GguflowError
from gguflow.rows import RowStore
rows = np.random.default_rng(0).standard_normal((40, 256)).astype(np.float32)
try:
    with RowStore(sys.argv[1], "q8_0", 256, mode="a") as store:
        while len(store) < 40:
            store.append(rows[len(store) : len(store) + 7])
            print(store.flush(), flush=True)
except GguflowError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


class Failed(Exception):
    """What must not happen has happened."""


@dataclass(frozen=True)
class Job:
    """A command that writes one file.

    command: with its output, which stands in a directory of its own.
    old: what stands there before; None for nothing.
    new: what a command gives that nothing disturbs.
    grows: whether the file may also hold a part: rows that were flushed.
    """

    command: list[str]
    old: bytes | None
    new: bytes
    grows: bool = False


def compiled(directory: Path) -> Path | None:
    """The library, or None where no compiler makes it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = directory / "failing_calls.so"
    source = str(HERE / "failing_calls.c")
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], capture_output=True
    )
    return None if done.returncode else library


def jobs(source: Path, out: Path, only: Iterable[str]) -> dict[str, Job]:
    """A conversion in leaves, one of payloads, an edit, a row store; each done once without a fault."""
    gguflow = [sys.executable, "-m", "gguflow"]
    convert = [*gguflow, "convert", str(source), "--arch", "any", "--overwrite", "-q", "-o", str(out), "-t"]
    commands: dict[str, tuple[list[str], bytes | None]] = {
        "leaves": ([*convert, "q8_0"], b"old"),
        "payloads": ([*convert, "int4_b128+zstd"], None),
        "rows": ([sys.executable, "-c", ROWS, str(out)], None),
    }
    if not only or "edit" in only:
        edit = [*gguflow, "edit", str(out), "--set", "general.name=str:edited", "-q"]
        commands["edit"] = edit, undisturbed([*convert, "q8_0"], out, None)
    return {
        name: Job(command, old, undisturbed(command, out, old), grows=name == "rows")
        for name, (command, old) in commands.items()
        if not only or name in only
    }


def undisturbed(command: list[str], out: Path, old: bytes | None) -> bytes:
    """What a command makes of the old file."""
    prepare(out, old)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{command}: exit {done.returncode}: {done.stderr}")
    return out.read_bytes()


def prepare(out: Path, old: bytes | None) -> None:
    """An empty directory, and the old file in it."""
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir(parents=True)
    if old is not None:
        out.write_bytes(old)


def check_calls(
    library: Path, out: Path, job: Job, call: str, numbers: Iterable[int], errors: dict[str, int]
) -> Iterator[str]:
    """Let the calls with these numbers fail, one in each run, until there are not so many. Yields what came
    of each: "refused", "done all the same".
    """
    mark = out.parent.with_name("mark")
    for name, number in errors.items():
        for n in numbers:
            mark.unlink(missing_ok=True)
            prepare(out, job.old)
            faults = {"CALL": call, "N": n, "ERRNO": number, "DIR": out.parent, "MARK": mark}
            environment = os.environ | {f"FAULT_{key}": str(value) for key, value in faults.items()}
            environment |= {"LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(job.command, capture_output=True, text=True, env=environment)
            if not mark.exists():
                break
            where = f"{call} {n}, {name}: exit {done.returncode}: {done.stderr}"
            if "Traceback" in done.stderr or done.returncode not in (0, 4):
                raise Failed(where)
            if done.returncode == 0 and CALLS[call] and number:
                raise Failed(f"passed unnoticed: {where}")
            there = out.read_bytes() if out.exists() else None
            if there != job.new and (done.returncode == 0 or (there != job.old and not job.grows)):
                raise Failed(f"another file than expected: {where}")
            again(job, out, where)
            yield "refused" if done.returncode else "done all the same"


def again(job: Job, out: Path, where: str) -> None:
    """The same command, where nothing fails: the new file, and nothing beside it. An edit of the new file is
    none.
    """
    if out.exists() and out.read_bytes() == job.new and job.old is not None and job.old != b"old":
        return
    done = subprocess.run(job.command, capture_output=True, text=True)
    if done.returncode or out.read_bytes() != job.new:
        raise Failed(f"run again after {where}: exit {done.returncode}: {done.stderr}")
    left = sorted(path.name for path in out.parent.iterdir())
    if left != [out.name]:
        raise Failed(f"run again after {where}: left behind: {left}")


def check_strangers(out: Path, job: Job) -> Iterator[str]:
    """Temporary files that are not ours: each stops the command, and is as it was afterwards."""
    partial, victim = out.with_name(f".{out.name}.partial"), out.with_name("victim")
    makers: dict[str, Callable[[], None]] = {
        "a hard link": lambda: os.link(victim, partial),
        "a symbolic link": lambda: partial.symlink_to(victim),
        "a pipe": lambda: os.mkfifo(partial),
    }
    if os.geteuid() == 0:
        makers["of another user"] = lambda: give_away(partial)
    for name, make in makers.items():
        prepare(out, job.old)
        victim.write_bytes(b"precious")
        make()
        before = os.lstat(partial)
        done = subprocess.run(job.command, capture_output=True, text=True, timeout=120)
        if done.returncode != 2 or "Traceback" in done.stderr:
            raise Failed(f"{name}: exit {done.returncode}: {done.stderr}")
        if victim.read_bytes() != b"precious" or not os.path.samestat(before, os.lstat(partial)):
            raise Failed(f"{name} did not stay as it was")
        if (out.read_bytes() if out.exists() else None) != job.old:
            raise Failed(f"{name}: another file than expected")
        partial.unlink()
        victim.unlink()
        again(job, out, name)
        yield "strange temporary file refused"


def give_away(path: Path) -> None:
    """A file of nobody's."""
    path.write_bytes(b"x")
    os.chown(path, 65534, 65534)


def run(
    directory: Path,
    source: Path,
    only: list[str],
    calls: Iterable[str],
    numbers: Iterable[int],
    n_errors: int,
) -> dict[str, int] | None:
    """All of it; how often what came out. None where there is no compiler.

    only: jobs; none for all. numbers: which calls of each kind fail. n_errors: how many of ERRORS.
    """
    library = compiled(directory)
    if library is None:
        return None
    out = directory / "run" / "model.gguf"
    counts: Counter[str] = Counter()
    errors = dict(list(ERRORS.items())[:n_errors])
    for job in jobs(source, out, only).values():
        for call in calls:
            counts.update(check_calls(library, out, job, call, numbers, errors))
        for call in ("write", "read"):
            came = check_calls(library, out, job, call, (0,), {"short": 0})
            counts.update(f"short {call}s: {said}" for said in came)
        counts.update(check_strangers(out, job))
    return dict(counts)
