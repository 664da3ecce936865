"""Checkpoint directories: which files are read, and every rule of spec/sources.md, section 3, with a
directory that breaks it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflow.errors import (
    FileError,
    GguflowError,
    InvalidError,
    LimitError,
    MalformedError,
    StorageError,
    UsageError,
)
from gguflow.sources import open_checkpoint
from gguflow.sources.huggingface import MAX_CONFIG_NBYTES, MAX_INDEX_NBYTES
from testing.source_files import safetensors_bytes, weights, write_checkpoint

ONE, TWO, THREE = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
SHARDS = {ONE: weights("a", "b"), TWO: weights("c"), THREE: weights("d")}
INDEX = {"a": ONE, "b": ONE, "c": TWO, "d": THREE}

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


def single(directory: Path) -> Path:
    return write_checkpoint(directory, {"model.safetensors": weights("a", "b")})


def sharded(directory: Path) -> Path:
    return write_checkpoint(directory, SHARDS, INDEX)


def with_index(text: str) -> Callable[[Path], None]:
    """Make a sharded checkpoint whose index is this text."""

    def make(directory: Path) -> None:
        sharded(directory)
        (directory / "model.safetensors.index.json").write_text(text)

    return make


def with_shard_name(name: str) -> Callable[[Path], None]:
    """Make a sharded checkpoint whose index says that tensor d is in `name`; that file exists where a reader
    could be led.
    """

    def make(directory: Path) -> None:
        write_checkpoint(directory, SHARDS, {**INDEX, "d": name.replace("DIRECTORY", str(directory))})
        for place in (directory.parent, directory / "sub"):
            place.mkdir(exist_ok=True)
            (place / "x.safetensors").write_bytes(safetensors_bytes(weights("d")))

    return make


def with_link(name: str) -> Callable[[Path], None]:
    """Make a sharded checkpoint in which the file `name` is a link to the same file outside."""

    def make(directory: Path) -> None:
        sharded(directory)
        outside = directory.parent / "outside"
        outside.mkdir()
        (directory / name).rename(outside / name)
        (directory / name).symlink_to(outside / name)

    return make


def with_config(content: bytes) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        single(directory)
        (directory / "config.json").write_bytes(content)

    return make


def without_config(directory: Path) -> None:
    single(directory)
    (directory / "config.json").unlink()


def with_large(name: str, nbytes: int) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        sharded(directory)
        with (directory / name).open("r+b") as file:
            file.truncate(nbytes + 1)

    return make


def with_other(name: str) -> Callable[[Path], None]:
    """Make a sharded checkpoint with one file of weights more."""

    def make(directory: Path) -> None:
        sharded(directory)
        (directory / name).write_bytes(safetensors_bytes(weights("e")))

    return make


def directory_as_config(directory: Path) -> None:
    single(directory)
    (directory / "config.json").unlink()
    (directory / "config.json").mkdir()


def two_indexes(directory: Path) -> None:
    sharded(directory)
    (directory / "other.safetensors.index.json").write_text("{}")


def shards_only(*names: str) -> Callable[[Path], None]:
    """Make a directory of files of weights without an index."""

    def make(directory: Path) -> None:
        write_checkpoint(directory, {name: weights(f"w{i}") for i, name in enumerate(names)})

    return make


def index_of(**changes: str | None) -> Callable[[Path], None]:
    """Make a sharded checkpoint whose index says something else of some tensors, or (None) nothing."""

    def make(directory: Path) -> None:
        write_checkpoint(
            directory,
            SHARDS,
            {name: shard for name, shard in {**INDEX, **changes}.items() if shard is not None},
        )

    return make


def shard_missing(directory: Path) -> None:
    sharded(directory)
    (directory / TWO).unlink()


def tensor_twice(directory: Path) -> None:
    write_checkpoint(directory, {**SHARDS, THREE: weights("d", "a")}, INDEX)


def shard_truncated(directory: Path) -> None:
    sharded(directory)
    content = (directory / TWO).read_bytes()
    (directory / TWO).write_bytes(content[:-1])


def with_lost_link(name: str) -> Callable[[Path], None]:
    """Make a sharded checkpoint in which the file `name` is a link to a file of it that is gone."""

    def make(directory: Path) -> None:
        sharded(directory)
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to("gone")

    return make


BROKEN: dict[str, tuple[str, type[FileError], Callable[[Path], object]]] = {
    "no config": ("H-001", InvalidError, without_config),
    "config over the limit": ("H-002", LimitError, with_large("config.json", MAX_CONFIG_NBYTES)),
    "config is a list": ("H-003", InvalidError, with_config(b"[]")),
    "config is null": ("H-003", InvalidError, with_config(b"null")),
    "config is a directory": ("S-001", InvalidError, directory_as_config),
    "config is empty": ("J-002", MalformedError, with_config(b"")),
    "config is Latin-1": ("J-001", MalformedError, with_config('{"a": "é"}'.encode("latin-1"))),
    "config has a key twice": ("J-003", MalformedError, with_config(b'{"rope": {"a": 1, "a": 2}}')),
    "config holds a number of 5000 digits": (
        "J-004",
        LimitError,
        with_config(b'{"a": ' + b"1" * 5000 + b"}"),
    ),
    "config is nested too deeply": ("J-005", LimitError, with_config(b"[" * 100_000)),
    "config holds half a surrogate pair": ("J-006", MalformedError, with_config(b'{"a": ["\\udfff"]}')),
    "no weights": ("H-004", InvalidError, shards_only()),
    "two indexes": ("H-005", InvalidError, two_indexes),
    "two files and no index": ("H-005", InvalidError, shards_only("a.safetensors", "b.safetensors")),
    "one shard of three": ("H-006", InvalidError, shards_only(ONE)),
    "two sets of shards without index": (
        "H-006",
        InvalidError,
        shards_only(ONE, TWO, THREE, "model-00001-of-00002.safetensors"),
    ),
    "all shards without index beside a single file": (
        "H-005",
        InvalidError,
        shards_only(ONE, TWO, THREE, "model.safetensors"),
    ),
    "shards without index beside a single file": (
        "H-006",
        InvalidError,
        shards_only("model.safetensors", ONE),
    ),
    "single file beside the index": ("H-007", InvalidError, with_other("model.safetensors")),
    "old shards beside the index": ("H-007", InvalidError, with_other("model-00001-of-00002.safetensors")),
    "index over the limit": (
        "H-008",
        LimitError,
        with_large("model.safetensors.index.json", MAX_INDEX_NBYTES),
    ),
    "index is a list": ("H-009", InvalidError, with_index("[]")),
    "index without weight_map": ("H-009", InvalidError, with_index('{"metadata": {}}')),
    "weight_map is a list": ("H-009", InvalidError, with_index('{"weight_map": []}')),
    "weight_map is empty": ("H-009", InvalidError, with_index('{"weight_map": {}}')),
    "weight_map holds a number": ("H-009", InvalidError, with_index('{"weight_map": {"a": 1}}')),
    "index names a tensor twice": (
        "J-003",
        MalformedError,
        with_index(f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}'),
    ),
    "parent directory": ("H-010", InvalidError, with_shard_name("../x.safetensors")),
    "absolute path": ("H-010", InvalidError, with_shard_name("DIRECTORY/x.safetensors")),
    "subdirectory": ("H-010", InvalidError, with_shard_name("sub/x.safetensors")),
    "same directory, spelt out": ("H-010", InvalidError, with_shard_name(f"./{THREE}")),
    "parent directory, as on Windows": ("H-010", InvalidError, with_shard_name("..\\x.safetensors")),
    "drive": ("H-010", InvalidError, with_shard_name("C:x.safetensors")),
    "two dots": ("H-010", InvalidError, with_shard_name("..")),
    "empty name": ("H-010", InvalidError, with_shard_name("")),
    "another kind of file": ("H-010", InvalidError, with_shard_name("pytorch_model.bin")),
    "NUL in the name": ("H-010", InvalidError, with_shard_name("x\0.safetensors")),
    "name of 300 bytes": ("H-010", InvalidError, with_shard_name("x" * 288 + ".safetensors")),
    "index is a link out": ("H-011", InvalidError, with_link("model.safetensors.index.json")),
    "config is a link out": ("H-011", InvalidError, with_link("config.json")),
    "shard missing": ("H-012", InvalidError, shard_missing),
    "shard lacks its tensor": ("H-013", InvalidError, index_of(e=TWO)),
    "tensor is in another shard": ("H-013", InvalidError, index_of(b=TWO)),
    "tensor in two shards": ("H-014", InvalidError, tensor_twice),
    "tensor not in the index": ("H-015", InvalidError, index_of(b=None)),
    "config is a link to nothing": ("H-019", InvalidError, with_lost_link("config.json")),
    "index is a link to nothing": ("H-019", InvalidError, with_lost_link("model.safetensors.index.json")),
    "shard is a link to nothing": ("H-019", InvalidError, with_lost_link(TWO)),
    "shard truncated": ("S-014", InvalidError, shard_truncated),
}


@pytest.mark.parametrize(
    ("rule", "error", "make"),
    [
        pytest.param(*case, id=name, marks=[needs_links] if case[0] in ("H-011", "H-019") else [])
        for name, case in BROKEN.items()
    ],
)
def test_broken_directories_are_refused_by_rule(
    tmp_path: Path, rule: str, error: type[FileError], make: Callable[[Path], object]
) -> None:
    directory = tmp_path / "checkpoint"
    make(directory)
    with pytest.raises(error) as caught:
        open_checkpoint(directory)
    assert caught.value.finding.rule == rule
    assert type(caught.value) is error
    assert str(directory) in str(caught.value)


VALID: dict[str, tuple[Callable[[Path], object], str]] = {
    "single file": (single, "ab"),
    "shards": (sharded, "abcd"),
    "shards without index": (lambda d: write_checkpoint(d, SHARDS), "abcd"),
    "one shard of one, without index": (
        lambda d: write_checkpoint(d, {"model-00001-of-00001.safetensors": weights("a")}),
        "a",
    ),
    "file of another name": (lambda d: write_checkpoint(d, {"weights.safetensors": weights("a")}), "a"),
    "Mistral's own copy beside": (
        lambda d: write_checkpoint(
            d, {"model.safetensors": weights("a"), "consolidated.safetensors": weights("x")}
        ),
        "a",
    ),
    "Mistral's own copy beside shards": (
        lambda d: write_checkpoint(
            d, {**SHARDS, "consolidated-00001-of-00002.safetensors": weights("x")}, INDEX
        ),
        "abcd",
    ),
    "Mistral's own copy alone": (
        lambda d: write_checkpoint(d, {"consolidated.safetensors": weights("a")}),
        "a",
    ),
    "variant beside": (
        lambda d: write_checkpoint(
            d, {"model.safetensors": weights("a"), "model.fp16.safetensors": weights("x")}
        ),
        "a",
    ),
    "adapter beside shards": (
        lambda d: write_checkpoint(d, {**SHARDS, "adapter_model.safetensors": weights("x")}, INDEX),
        "abcd",
    ),
}


@pytest.mark.parametrize(("make", "names"), VALID.values(), ids=VALID)
def test_valid_directories(tmp_path: Path, make: Callable[[Path], object], names: str) -> None:
    directory = tmp_path / "checkpoint"
    make(directory)
    checkpoint = open_checkpoint(directory)
    assert list(checkpoint.tensors) == list(names)
    assert (checkpoint.path, checkpoint.directory, checkpoint.config) == (directory, directory, {})
    assert {tensor.file for tensor in checkpoint.tensors.values()} == set(checkpoint.files)


def test_an_index_itself(tmp_path: Path) -> None:
    """Other weights beside it do not matter, and the config may be missing."""
    directory = write_checkpoint(tmp_path, {**SHARDS, "model.safetensors": weights("x")}, INDEX, config=None)
    index = directory / "model.safetensors.index.json"
    checkpoint = open_checkpoint(index)
    assert "".join(checkpoint.tensors) == "abcd"
    assert (checkpoint.path, checkpoint.directory, checkpoint.config) == (index, directory, None)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    assert open_checkpoint(index).config == {"model_type": "llama"}


def test_a_lone_file(tmp_path: Path) -> None:
    directory = single(tmp_path)
    checkpoint = open_checkpoint(str(directory / "model.safetensors"))
    assert list(checkpoint.tensors) == ["a", "b"]
    assert (checkpoint.path, checkpoint.directory, checkpoint.config) == (
        directory / "model.safetensors",
        None,
        None,
    )


def test_config_as_python_writes_it(tmp_path: Path) -> None:
    """Infinity, and integers of 31 digits (tokenizers' idea of no limit)."""
    with_config(b'{"time_step_limit": [0.0, Infinity], "model_max_length": 1000000000000000019884624838656}')(
        tmp_path
    )
    config = open_checkpoint(tmp_path).config
    assert config == {
        "time_step_limit": [0.0, float("inf")],
        "model_max_length": 1000000000000000019884624838656,
    }


@needs_links
@pytest.mark.parametrize("make", [single, sharded])
def test_the_layout_of_the_hugging_face_cache(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """snapshots/REVISION/name -> ../../blobs/DIGEST is inside, also where blobs is a link itself."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    for i, path in enumerate(sorted(make(snapshot).iterdir())):
        path.rename(blobs / f"{i:040x}")
        path.symlink_to(Path("..") / ".." / "blobs" / f"{i:040x}")
    assert (
        open_checkpoint(snapshot).tensors.keys() == open_checkpoint(make(tmp_path / "plain")).tensors.keys()
    )
    other = tmp_path / "another disk"
    blobs.rename(other)
    blobs.symlink_to(other)
    assert open_checkpoint(snapshot).config == {}


@needs_links
def test_links_that_stay_inside(tmp_path: Path) -> None:
    """The directory may be reached through a link, and its files may be links to files in it."""
    directory = single(tmp_path / "checkpoint")
    (directory / "files").mkdir()
    (directory / "model.safetensors").rename(directory / "files" / "weights")
    (directory / "model.safetensors").symlink_to("files/weights")
    (tmp_path / "link").symlink_to(directory)
    assert list(open_checkpoint(tmp_path / "link").tensors) == ["a", "b"]


@needs_links
def test_links_in_a_circle(tmp_path: Path) -> None:
    directory = single(tmp_path)
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(StorageError, match="circle"):
        open_checkpoint(directory)


def test_what_is_no_source(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.pt", "config.json", "README"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UsageError, match=r"a checkpoint directory, a \.safetensors file"):
            open_checkpoint(tmp_path / name)
    with pytest.raises(StorageError, match="no such file"):
        open_checkpoint(tmp_path / "missing")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_the_message_tells_of_weights_in_other_formats(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, {})
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InvalidError, match=Path(name).suffix):
        open_checkpoint(tmp_path)


def test_an_index_of_pytorch_files(tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}))
    with pytest.raises(InvalidError) as caught:
        open_checkpoint(index)
    assert caught.value.finding.rule == "H-010"


_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from([ONE, TWO]),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)
_MAPS = st.dictionaries(
    st.sampled_from("abcde"), st.sampled_from([ONE, TWO, THREE, "..", "../x.safetensors"])
)


@settings(max_examples=150, deadline=None)
@given(
    index=_VALUES | st.fixed_dictionaries({"weight_map": _VALUES | _MAPS}),
    config=_VALUES,
    cut=st.integers(0, 60),
)
def test_random_documents_give_checkpoints_or_typed_errors(
    tmp_path_factory: pytest.TempPathFactory, index: object, config: object, cut: int
) -> None:
    directory = sharded(tmp_path_factory.getbasetemp() / "random")
    for name, document in (("model.safetensors.index.json", index), ("config.json", config)):
        content = json.dumps(document).encode()
        (directory / name).write_bytes(content[:cut] if cut < 3 else content)
    try:
        checkpoint = open_checkpoint(directory)
    except GguflowError:
        return
    assert {name: tensor.file.path.name for name, tensor in checkpoint.tensors.items()} == INDEX
