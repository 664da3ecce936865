"""Links in checkpoint directories: those that people have work, and none brings a private file into an output
(H-011).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gguflow import conversion
from gguflow.cli import main
from gguflow.errors import InvalidError
from gguflow.models import documents
from gguflow.sources import open_checkpoint
from gguflow.sources.links import FollowedPath, contained, repository_id
from testing.checkpoints import tiny_llama

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")

DIGEST = "0123456789abcdef" * 4
MARKER = ".huggingface-shared-blobs"


def linked(place: Path, target: Path) -> Path:
    """Make `place` a link to `target`, and both directories."""
    for path in (place, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return place


def blob(tmp_path: Path, digest: str = DIGEST) -> Path:
    return tmp_path / "hub" / "models--org--name" / "blobs" / digest


def into_the_cache(tmp_path: Path) -> Path:
    """`hf download --local-dir` of older releases, or a link made by hand."""
    blob(tmp_path).parent.mkdir(parents=True)
    blob(tmp_path).write_text("x")
    return linked(tmp_path / "work" / "file", blob(tmp_path))


def by_a_snapshot(tmp_path: Path) -> Path:
    """A link to a file of a snapshot, which is a link itself."""
    into_the_cache(tmp_path)
    there = linked(tmp_path / "hub/models--org--name/snapshots/1/file", Path("../../blobs") / DIGEST)
    return linked(tmp_path / "other" / "file", there)


def snapshot_on_another_disk(tmp_path: Path) -> Path:
    """The directory `blobs` is a link."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / DIGEST).write_text("x")
    linked(blob(tmp_path).parent, disk)
    return linked(tmp_path / "hub/models--org--name/snapshots/1/file", Path("../../blobs") / DIGEST)


def work_on_another_disk(tmp_path: Path) -> Path:
    return linked(tmp_path / "work" / "file", snapshot_on_another_disk(tmp_path))


def store(tmp_path: Path, marker: str | None = "1\n", place: str = "01") -> Path:
    """The store that huggingface_hub has for all repositories of a cache."""
    shared = tmp_path / "hub" / "blobs"
    shared.mkdir(parents=True)
    if marker is not None:
        (shared / MARKER).write_text(marker)
    (shared / place).mkdir()
    (shared / place / DIGEST).write_text("x")
    linked(blob(tmp_path, "ab" * 20), Path("../../blobs") / place / DIGEST)
    return linked(tmp_path / "hub/models--org--name/snapshots/1/file", Path("../../blobs") / ("ab" * 20))


def store_from_work(tmp_path: Path) -> Path:
    return linked(tmp_path / "work" / "file", store(tmp_path))


def store_on_another_disk(tmp_path: Path) -> Path:
    path = store(tmp_path)
    (tmp_path / "hub" / "blobs").rename(tmp_path / "disk")
    (tmp_path / "hub" / "blobs").symlink_to(tmp_path / "disk")
    return path


def below_the_directory(tmp_path: Path) -> Path:
    (tmp_path / "work" / "files").mkdir(parents=True)
    (tmp_path / "work" / "files" / "x").write_text("x")
    return linked(tmp_path / "work" / "file", Path("files/x"))


FOLLOWED: dict[str, Callable[[Path], Path]] = {
    make.__name__: make
    for make in (
        into_the_cache,
        by_a_snapshot,
        snapshot_on_another_disk,
        work_on_another_disk,
        store,
        store_from_work,
        store_on_another_disk,
        below_the_directory,
    )
}


@pytest.mark.parametrize("make", FOLLOWED.values(), ids=FOLLOWED)
def test_links_that_people_have_are_followed(make: Callable[[Path], Path], tmp_path: Path) -> None:
    place = make(tmp_path)
    assert documents.read_text(place.parent, place.name) == "x"


def private(tmp_path: Path, name: str = "id_rsa") -> Path:
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / name).write_text("secret")
    return tmp_path / "home" / name


def blobs_are_a_private_directory(tmp_path: Path) -> Path:
    """A snapshot as made by somebody else: its blobs are a directory of the user's."""
    home = private(tmp_path).parent
    linked(blob(tmp_path).parent, home)
    return linked(tmp_path / "hub/models--org--name/snapshots/1/file", Path("../../blobs/id_rsa"))


def a_blob_is_a_private_file(tmp_path: Path) -> Path:
    linked(blob(tmp_path), private(tmp_path))
    return linked(tmp_path / "hub/models--org--name/snapshots/1/file", Path("../../blobs") / DIGEST)


def a_store_of_private_files(tmp_path: Path) -> Path:
    """The store is marked, and leads to a file that is not called after its digest."""
    (tmp_path / "hub").mkdir()
    home = private(tmp_path).parent
    (home / MARKER).write_text("1\n")
    (tmp_path / "hub" / "blobs").symlink_to(home)
    linked(blob(tmp_path), Path("../../blobs/id_rsa"))
    return linked(tmp_path / "hub/models--org--name/snapshots/1/file", Path("../../blobs") / DIGEST)


REFUSED: dict[str, Callable[[Path], Path]] = {
    "a private file": lambda d: linked(d / "work" / "file", private(d)),
    "a private file with the name of a digest": lambda d: linked(d / "work" / "file", private(d, DIGEST)),
    "a private file by a chain": lambda d: linked(d / "work/file", linked(d / "a/b", private(d))),
    "blobs that are a private directory": blobs_are_a_private_directory,
    "a blob that is a private file": a_blob_is_a_private_file,
    "a store without its mark": lambda d: store(d, marker=None),
    "a store of another layout": lambda d: store(d, marker="2\n"),
    "a store with another directory": lambda d: store(d, place="02"),
    "a store of private files": a_store_of_private_files,
    "blobs of what is no repository": lambda d: linked(
        d / "work/file", private(d, "x").parent / "blobs" / DIGEST
    ),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_other_links_are_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    place = make(tmp_path)
    with pytest.raises(InvalidError) as caught:
        documents.read_text(place.parent, place.name)
    assert caught.value.finding.rule == "H-011"
    assert "--follow-links" in str(caught.value)


def test_the_user_may_allow_links_but_no_paths_outside(tmp_path: Path) -> None:
    place = linked(tmp_path / "work" / "file", private(tmp_path))
    assert documents.read_text(FollowedPath(place.parent), place.name) == "secret"
    for name in ("../home/id_rsa", str(tmp_path / "home" / "id_rsa"), "a/../../home/id_rsa"):
        with pytest.raises(InvalidError, match="H-011"):
            contained(FollowedPath(place.parent), name)


def test_followed_paths_make_followed_paths(tmp_path: Path) -> None:
    path = FollowedPath(tmp_path) / "a"
    assert all(type(p) is FollowedPath for p in (path, path.parent, path.resolve()))
    assert path == tmp_path / "a" and str(path) == str(tmp_path / "a")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "model.safetensors", "tokenizer.model"]
)
def test_a_conversion_with_a_link(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights may be links to anything; the rest only if it is said, in Python and on the command line."""
    directory = tiny_llama(tmp_path / "checkpoint")
    plain = conversion.convert(directory, tmp_path / "plain.gguf", type="q8_0").output.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    (directory / name).rename(tmp_path / "elsewhere" / name)
    (directory / name).symlink_to(tmp_path / "elsewhere" / name)
    options = ["convert", str(directory), "-t", "q8_0", "-q", "-o", str(tmp_path / "out.gguf")]
    if name != "model.safetensors":
        assert main(options) == 3
        assert "--follow-links" in capsys.readouterr().err
    assert main([*options, "--follow-links"]) == 0
    assert (tmp_path / "out.gguf").read_bytes() == plain
    report = conversion.convert(directory, tmp_path / "again.gguf", type="q8_0", follow_links=True)
    assert report.output.read_bytes() == plain


def test_a_shard_may_be_a_link_that_leads_to_weights_only(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path / "checkpoint")
    (directory / "model.safetensors").rename(tmp_path / "weights")
    (directory / "model.safetensors").symlink_to(tmp_path / "weights")
    assert open_checkpoint(directory).tensors
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to(private(tmp_path))
    with pytest.raises(ValueError, match="S-00"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("models--org--name/snapshots/1", "org/name"),
        ("models--name/snapshots/1", "name"),
        ("models--org--name", None),
        ("datasets--org--name/snapshots/1", None),
        ("name/snapshots/1", None),
    ],
)
def test_the_repository_of_a_snapshot(path: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / path).mkdir(parents=True)
    assert repository_id(tmp_path / path) == expected
