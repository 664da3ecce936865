"""Messages for a path that is not a checkpoint: what it is, and what to name instead."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from gguflow.errors import FileError, Finding, InvalidError, StorageError, listed
from gguflow.sources.links import REPOSITORY_PREFIX
from gguflow.sources.weights import INDEX_SUFFIX, SUFFIX, Shard, adapter_error, complete_set, found, names_in

_HUB_ID = re.compile(
    r"((https?:/+)?(www\.)?(huggingface|hf)\.co/|hf:/+)?(?P<id>[\w-][\w.-]*/[\w.-]+)"
    r"([@:][^/]*|/(tree|blob|resolve)/.*)?"
)
"""The id of a model, as users write it: with its address, or with a revision."""
_BARE_ID = re.compile(r"[\w-][\w.-]*")
_LONGEST_ID = 300
_MAX_ENTRIES = 1000
"""Entries of a directory that are looked at for a message."""


def without_config(directory: Path, names: Sequence[str]) -> FileError:
    """The error for a directory without config.json (H-001, H-016).

    directory: the directory that was named.
    names: the names of its files.
    """
    if "adapter_config.json" in names:
        return adapter_error(directory)
    return InvalidError(directory, Finding("H-001", f"no config.json; {_what_it_is(directory, names)}"))


def _what_it_is(directory: Path, names: Sequence[str]) -> str:
    if snapshots := _snapshots(directory):
        return f"this is a repository of a Hugging Face cache; name a snapshot in it: {listed(snapshots)}"
    if directory.name == "blobs" and (snapshots := _snapshots(directory.parent)):
        return f"this holds the contents of a Hugging Face cache; name a snapshot: {listed(snapshots)}"
    repositories = [name for name in names[:_MAX_ENTRIES] if name.startswith(REPOSITORY_PREFIX)]
    if snapshots := [path for name in repositories for path in _snapshots(directory / name)]:
        return f"this is a Hugging Face cache; name a snapshot in it: {listed(snapshots)}"
    if models := [name for name in names[:_MAX_ENTRIES] if _is_file(directory / name / "config.json")]:
        what = "a pipeline of several models" if "model_index.json" in names else "a directory of checkpoints"
        return f"this is {what}; name one of them: {listed([str(directory / name) for name in models])}"
    if "params.json" in names and any(name.startswith("consolidated") for name in names):
        return (
            "this is a model in Mistral's own form (params.json); --mistral-format (mistral_format=True) "
            "converts it, or download its config.json and model*.safetensors, the form of transformers"
        )
    copies = found(names)
    indexes = [copy.index for copy in copies.values() if copy.index is not None]
    files = [copy.single for copy in copies.values() if copy.single is not None]
    first = [shards[1] for copy in copies.values() for shards in copy.shards.values() if 1 in shards]
    if named := indexes or files or first:
        return f"to convert tensors without a model, name {listed(named)} itself, with --arch NAME"
    gguf = [name for name in names if name.endswith(".gguf")]
    return (
        f"to convert a GGUF file, name it: {listed(gguf)}" if gguf else "this is not a checkpoint directory"
    )


def missing(path: Path, error: StorageError) -> StorageError:
    """The error for a path that does not exist; if it may be a model id, the error says what to do.

    path: the path that was named.
    error: the error of the system.
    """
    named = path.as_posix()
    if len(named) > _LONGEST_ID:
        return error
    match = _HUB_ID.fullmatch(named)
    if match is None and not _BARE_ID.fullmatch(named):
        return error
    identifier = named if match is None else match["id"]
    if match is not None and match["id"] == named and path.suffix in (SUFFIX, ".gguf"):
        return error
    snapshots = _snapshots(_hub_cache() / (REPOSITORY_PREFIX + identifier.replace("/", "--")))
    if match is None and not snapshots:  # any misspelt name looks like one
        return error
    hint = (
        f"it has been downloaded; name {' or '.join(snapshots[:3])}"
        if snapshots
        else f"download it first: hf download {identifier} --local-dir {identifier.split('/')[-1]}"
    )
    return StorageError(f"{error}; if this is a model on the Hugging Face Hub, {hint}", error.errno)


def lone_shard(path: Path) -> InvalidError | None:
    """The error for one of several shards that was named by itself (H-017), None for another file.

    path: the path of the file.
    """
    shard = Shard.of(path.name)
    if shard is None or shard.n_shards == 1:
        return None
    names = names_in(path.parent)
    copy = found(names).get(shard.stem)
    index = None if copy is None else copy.index
    if _is_file(path.parent / "config.json"):
        hint = f"name the directory {path.parent}"
    elif index is not None:
        hint = f"name the index {path.parent / index}"
    elif copy is not None and complete_set(names, shard):
        hint = "name the first shard, which stands for all of them"
    else:
        hint = f"the other shards, or their index {shard.stem}{INDEX_SUFFIX}, are missing"
    message = f"this is shard {shard.number} of {shard.n_shards}, and holds a part of the model only; {hint}"
    return InvalidError(path, Finding("H-017", message))


def _snapshots(repository: Path) -> list[str]:
    """The snapshots of a repository in a Hugging Face cache, that of the branch main first."""
    if not repository.name.startswith(REPOSITORY_PREFIX):
        return []
    directory = repository / "snapshots"
    try:
        main = (repository / "refs" / "main").read_text("ascii", "replace")[:100].strip()
    except OSError:
        main = ""
    names = sorted(names_in(directory), key=lambda name: (name != main, name))
    return [str(directory / name) for name in names if _is_file(directory / name / "config.json")]


def _hub_cache() -> Path:
    """Where huggingface_hub keeps its downloads."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
