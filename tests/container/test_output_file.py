"""What an output file takes over, what it refuses to replace, and what the new file keeps of the old one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguflow import conversion, platform
from gguflow.comparison import plot
from gguflow.container.metadata import string
from gguflow.container.output_file import OutputFile, hidden_sibling
from gguflow.editing import edit
from gguflow.errors import GguflowError, StorageError, UsageError
from gguflow.exporting import export
from gguflow.rows import RowStore
from testing.checkpoints import write_safetensors
from testing.row_stores import vectors

posix = pytest.mark.skipif(os.name == "nt", reason="owners, pipes and links of POSIX")
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)

NOBODY = 65534


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "x.safetensors", {"a.weight": vectors(8, 64)})


def write(path: Path, content: bytes = b"new", *, overwrite: bool = True, resume: bool = False) -> OutputFile:
    with OutputFile(path, len(content), overwrite=overwrite, resume=resume) as output:
        output.write(content, 0)
        output.commit()
    return output


def convert(source: Path, out: Path) -> None:
    conversion.convert(source, out, type="q8_0", architecture="any", overwrite=True, threads=1)


# --- temporary files


def hard_link(path: Path) -> None:
    (path.parent / "victim").write_bytes(b"precious")
    os.link(path.parent / "victim", path)


def symbolic_link(path: Path) -> None:
    (path.parent / "victim").write_bytes(b"precious")
    path.symlink_to("victim")


def foreign(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    os.chown(path, NOBODY, NOBODY)


TEMPORARIES = {
    "a hard link": (hard_link, "hard link"),
    "a symbolic link": (symbolic_link, "not a regular file"),
    "a pipe": (lambda path: os.mkfifo(path), "not a regular file"),
    "a directory": (lambda path: path.mkdir(), "not a regular file"),
    "of another user": (foreign, "another user"),
}


@posix
@pytest.mark.parametrize("suffix", [".partial", ".journal"])
@pytest.mark.parametrize(("make", "message"), TEMPORARIES.values(), ids=TEMPORARIES)
def test_a_temporary_file_that_is_not_ours_is_not_taken_over(
    tmp_path: Path, source: Path, make: Callable[[Path], None], message: str, suffix: str
) -> None:
    if make is foreign and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    out = tmp_path / "out.gguf"
    temporary = hidden_sibling(out, suffix)
    make(temporary)
    before = os.lstat(temporary)
    with pytest.raises(UsageError, match=message):
        convert(source, out)
    assert not out.exists()
    assert os.path.samestat(before, os.lstat(temporary)), "what stood there still does"
    if (tmp_path / "victim").exists():
        assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_journal_that_is_not_ours_does_not_cost_what_was_written(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.gguf"
    hidden_sibling(out, ".partial").write_bytes(b"of an earlier run")
    hidden_sibling(out, ".journal").mkdir()
    with pytest.raises(UsageError, match="not a regular file"):
        convert(source, out)
    assert hidden_sibling(out, ".partial").exists()


@root
def test_files_of_ours_where_the_file_system_gives_them_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does with those of root: what we make there belongs to whom the file found there belongs to."""
    out = tmp_path / "out"
    foreign(hidden_sibling(out, ".partial"))
    make = tempfile.TemporaryFile

    def squashed(**arguments: Any) -> Any:
        made = make(**arguments)
        os.fchown(made.fileno(), NOBODY, NOBODY)
        return made

    monkeypatch.setattr(tempfile, "TemporaryFile", squashed)
    write(out)
    assert out.read_bytes() == b"new"


def test_a_partial_file_that_loses_its_name_is_not_committed(tmp_path: Path) -> None:
    """Somebody put another file in its place: it does not become the output, and is not removed."""
    out = tmp_path / "out"
    with OutputFile(out, 3) as output:
        output.write(b"new", 0)
        output.partial.unlink()
        output.partial.write_bytes(b"another")
        with pytest.raises(StorageError, match="removed or replaced"):
            output.commit()
    assert not out.exists()
    assert output.partial.read_bytes() == b"another"


@pytest.mark.parametrize("nbytes", [0, 2, 4])
def test_a_partial_file_of_another_size_is_not_committed(tmp_path: Path, nbytes: int) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with OutputFile(out, 3, overwrite=True) as output:
        output.write(b"new", 0)
        os.truncate(output.partial, nbytes)
        with pytest.raises(StorageError, match=f"it has {nbytes} bytes, and 3 were written; run"):
            output.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and out.read_bytes() == b"old"


def test_a_shortened_file_is_committed(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "out", 5) as output:
        output.write(b"new", 0)
        output.shorten(3)
        output.commit()
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize("nbytes", [1000, 10**6, 10**8])
def test_a_kept_file_that_was_cut_is_resumed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    """What is lost is written again, padding included."""
    convert(source, tmp_path / "whole")

    def stop(self: OutputFile) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutputFile, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out")
    os.truncate(hidden_sibling(tmp_path / "out", ".partial"), nbytes)
    convert(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("n", [240, 246, 247, 250, 255])
def test_every_name_that_the_file_system_takes(tmp_path: Path, n: int) -> None:
    names = [letter * (n - 1) + "x" for letter in ("n", "m")]
    for name in names:
        write(tmp_path / name, name.encode())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {n: n.encode() for n in names}
    assert hidden_sibling(tmp_path / names[0], ".partial") != hidden_sibling(tmp_path / names[0], ".journal")
    assert len({hidden_sibling(tmp_path / f"{'n' * (n - 1)}{i}", ".partial") for i in range(9)}) == 9


# --- names

NAMES = {
    "nothing": ("", UsageError),
    "here": (".", UsageError),
    "the root": ("/", UsageError),
    "above": ("..", UsageError),
    "below and above": ("a/..", UsageError),
    "NUL": ("a\0b", UsageError),
    "NUL in a directory": ("a\0b/c.gguf", UsageError),
    "a lone surrogate": ("\ud800.gguf", UsageError),
    "300 bytes": ("n" * 300, StorageError),
    "a directory of 300 bytes": ("n" * 300 + "/x.gguf", StorageError),
    "a path of 5000 bytes": ("n/" * 2500 + "x.gguf", StorageError),
    "below a file": ("x.safetensors/x.gguf", StorageError),
    "no such directory": ("none/x.gguf", StorageError),
    "a circle of links": ("circle/x.gguf", StorageError),
}

WRITERS: dict[str, Callable[[Path, str], object]] = {
    "convert": lambda source, name: convert(source, Path(name)),
    "edit to": lambda source, name: edit(
        source.with_name("model.gguf"), [("a.b", string("c"))], output=name, overwrite=True
    ),
    "edit": lambda source, name: edit(name, [("a.b", string("c"))]),
    "export": lambda source, name: export(source.with_name("model.gguf"), name + "/model.safetensors"),
    "plot": lambda source, name: plot.write(None, name),  # type: ignore[arg-type]
    "RowStore w": lambda source, name: RowStore(name, "q8_0", 32, overwrite=True),
    "RowStore a": lambda source, name: RowStore(name, "q8_0", 32, mode="a"),
    "RowStore r": lambda source, name: RowStore.open(name),
}


@posix
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writer", WRITERS)
def test_names(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, writer: str, name: str) -> None:
    """A typed error for every name that no file can have, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "page", lambda comparison: "a page")
    convert(source, tmp_path / "model.gguf")
    Path("circle").symlink_to("circle")
    there = sorted(tmp_path.iterdir())
    text, error = NAMES[name]
    if writer == "export":
        text, error = (text, GguflowError) if text not in ("", ".", "/", "..", "a/..") else ("\0", UsageError)
    elif writer in ("edit", "RowStore r", "RowStore a"):
        error = GguflowError
    with pytest.raises(error):
        WRITERS[writer](source, text)
    assert sorted(tmp_path.iterdir()) == there


# --- what is replaced


@posix
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["a pipe", "a link to a device", "a link to a pipe", "a socket"])
def test_outputs_are_regular_files(tmp_path: Path, kind: str, overwrite: bool) -> None:
    import socket

    out = tmp_path / "out"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "a pipe":
            os.mkfifo(out)
        elif kind == "a link to a device":
            out.symlink_to("/dev/null")
        elif kind == "a link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            out.symlink_to("pipe")
        else:
            listener.bind(str(out))
        before = os.lstat(out)
        with pytest.raises(UsageError, match="not a regular file"):
            write(out, overwrite=overwrite)
        assert os.path.samestat(before, os.lstat(out))


@posix
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the descriptors of /proc")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_stream_is_not_replaced(tmp_path: Path, steps: int, overwrite: bool) -> None:
    """/dev/stdout is a link to /proc/self/fd/1, and with `> file` that leads to a regular file."""
    with (tmp_path / "redirected").open("wb") as stream:
        out = Path(f"/proc/self/fd/{stream.fileno()}")
        for step in range(steps):
            out, target = tmp_path / f"link {step}", out
            out.symlink_to(target)
        with pytest.raises(UsageError, match="is a stream or another open file of a process"):
            write(out, overwrite=overwrite)
    links = sorted(path.name for path in tmp_path.iterdir() if path.is_symlink())
    assert links == [f"link {step}" for step in range(steps)]
    assert (tmp_path / "redirected").read_bytes() == b""


@root
def test_a_device_is_not_replaced(tmp_path: Path, source: Path) -> None:
    """A copy of /dev/null: convert, edit, export, row stores."""
    out = tmp_path / "null"
    try:
        os.mknod(out, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices can be made here")
    convert(source, tmp_path / "model.gguf")
    for work in (
        lambda: convert(source, out),
        lambda: edit(tmp_path / "model.gguf", [("a.b", string("c"))], output=out, overwrite=True),
        lambda: RowStore(out, "q8_0", 32, overwrite=True),
    ):
        with pytest.raises(UsageError, match="not a regular file"):
            work()
    assert stat.S_ISCHR(out.stat().st_mode)


@posix
def test_a_link_is_replaced_itself(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "out").symlink_to("target")
    write(tmp_path / "out")
    assert not (tmp_path / "out").is_symlink()
    assert ((tmp_path / "out").read_bytes(), (tmp_path / "target").read_bytes()) == (b"new", b"old")


def attributes(path: Path) -> dict[str, object]:
    status = path.stat()
    found: dict[str, object] = {"mode": stat.S_IMODE(status.st_mode)}
    found |= {"owner": status.st_uid, "group": status.st_gid}
    for name in os.listxattr(path) if hasattr(os, "listxattr") else ():
        found[name] = os.getxattr(path, name)
    return found


WAYS: dict[str, Callable[[Path, Path], tuple[str, ...]]] = {
    "edit": lambda source, out: edit(out, [("a.b", string("c"))]).notes,
    "convert": lambda source, out: (
        conversion.convert(source, out, type="f16", architecture="any", overwrite=True).notes
    ),
}


@posix
@pytest.mark.parametrize("way", WAYS)
def test_the_new_file_has_the_attributes_of_the_old_one(tmp_path: Path, source: Path, way: str) -> None:
    out = tmp_path / "model.gguf"
    convert(source, out)
    out.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(out, NOBODY, 12345)
    if hasattr(os, "setxattr"):
        acl = bytes.fromhex("02000000 01000600ffffffff 02000400feff0000 04000400ffffffff 10000600ffffffff")
        for name, value in (
            ("user.origin", b"here"),
            ("system.posix_acl_access", acl + b" \0\0\0\xff\xff\xff\xff"),
        ):
            try:
                os.setxattr(out, name, value)
            except OSError:
                continue  # not on this file system
    before, inode = attributes(out), out.stat().st_ino
    assert WAYS[way](source, out) == ()
    assert out.stat().st_ino != inode
    assert attributes(out) == before


@posix
@pytest.mark.parametrize("way", WAYS)
def test_what_the_new_file_does_not_keep_is_said(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    out = tmp_path / "model.gguf"
    convert(source, out)
    os.link(out, tmp_path / "other name")
    (notes,) = WAYS[way](source, out)
    assert "1 other name (hard links)" in notes
    (tmp_path / "other name").unlink()
    if os.geteuid() == 0:
        os.chown(out, NOBODY, NOBODY)
        out.chmod(0o4644)

        def refuse(*arguments: int) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "fchown", refuse)
        (notes,) = WAYS[way](source, out)
        assert "its owner (was 65534, is 0), its group (was 65534, is 0)" in notes
        assert stat.S_IMODE(out.stat().st_mode) == 0o644, "no program of another owner"


# --- how many at once

SHARDS = """
import resource, sys
from gguflow import conversion, errors
from gguflow.conversion.splitting import Split
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[3])))
try:
    conversion.convert(sys.argv[1], sys.argv[2], type="f32", architecture="any", shards=Split(None, 1))
except errors.StorageError as error:
    sys.exit(str(error))
"""


@posix
@pytest.mark.parametrize("hard", [64, 4096])
def test_many_shards(tmp_path: Path, hard: int) -> None:
    """The soft limit is raised as far as is needed; where it cannot be, the limit is named, and nothing is
    left.
    """
    x = vectors(1, 32)
    source = write_safetensors(tmp_path / "x.safetensors", {f"t{i}.weight": x for i in range(75)})
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", SHARDS, str(source), str(out / "m.gguf"), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if hard == 64:
        assert done.returncode == 1
        assert "may have 64 (ulimit -n)" in done.stderr and "Traceback" not in done.stderr
        assert not list(out.iterdir())
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert len(list(out.iterdir())) == 75


def test_the_message_of_the_system_names_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    monkeypatch.setattr(platform, "open_files_limit", lambda: 77)
    with (
        pytest.raises(StorageError, match=r"may have 77 \(ulimit -n\)"),
        platform.storage_errors("read", "x"),
    ):
        raise OSError(errno.EMFILE, "x")
