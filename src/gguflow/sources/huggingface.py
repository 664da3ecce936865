"""A checkpoint as the Hugging Face libraries lay it out: config.json, and the weights in one file or in
shards with an index. Rules H-001 to H-015.

Nothing in such a directory is trusted: an index may name any path, a link may lead anywhere, and what is read
here ends in a file that people publish. So an index gives plain file names only, links stay inside the
checkpoint, and index and shards must agree on every tensor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from gguflow.errors import Finding, InvalidError
from gguflow.platform import storage_errors
from gguflow.sources import safetensors, strict_json
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor, json_path

INDEX_SUFFIX = ".safetensors.index.json"
MAX_CONFIG_NBYTES = 16 << 20
MAX_INDEX_NBYTES = 100_000_000

_PLAIN_NAME = re.compile(r"[^/\\:]+\.safetensors")
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")


def open_directory(directory: Path) -> Checkpoint:
    """Read config.json, find the weights of a checkpoint directory, and read every header.

    Raises a FileError with the rule that is broken, or StorageError.
    """
    config = read_config(directory)
    if config is None:
        raise InvalidError(
            directory,
            Finding(
                "H-001",
                "no config.json; to convert tensors without a model, name the .safetensors file itself",
            ),
        )
    with storage_errors("read", directory):
        names = sorted(entry.name for entry in directory.iterdir())
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise InvalidError(
            directory, Finding("H-005", f"several indexes; name the one that is meant: {_listed(indexes)}")
        )
    if not indexes:
        file, tensors, _ = safetensors.read_header(contained(directory, _only_weights(directory, names)))
        return Checkpoint(directory, tensors, (file,), directory, config)
    tensors, files = _read_shards(directory / indexes[0])
    stem, indexed = indexes[0].removesuffix(INDEX_SUFFIX), {file.path.name for file in files}
    strays = [
        name
        for name in names
        if name not in indexed and (name == f"{stem}.safetensors" or _shard_stem(name) == stem)
    ]
    if strays:
        message = (
            f"{indexes[0]} does not name {_listed(strays)} beside it: "
            "two models in one directory; name the index or the file to convert"
        )
        raise InvalidError(directory, Finding("H-007", message))
    return Checkpoint(directory, tensors, files, directory, config)


def open_index(path: Path) -> Checkpoint:
    """Read an index and the headers of the shards that it names, and prove that they agree. config.json
    beside it is read where there is one.

    Raises a FileError with the rule that is broken, or StorageError.
    """
    tensors, files = _read_shards(path)
    return Checkpoint(path, tensors, files, path.parent, read_config(path.parent))


def read_config(directory: Path) -> dict[str, Any] | None:
    """config.json, or None where there is none. Raises a FileError or StorageError."""
    path = contained(directory, "config.json")
    if not _exists(path):
        return None
    config = strict_json.read(path, MAX_CONFIG_NBYTES, "H-002", allow_infinity=True)
    if not isinstance(config, dict):
        raise InvalidError(path, Finding("H-003", "not a JSON object", found=type(config).__name__))
    return config


def contained(directory: Path, name: str) -> Path:
    """directory / name, proved to stay inside the checkpoint with its links resolved (H-011).

    In a Hugging Face cache the files of `models--*/snapshots/<revision>` are links into `models--*/blobs`:
    that one directory is inside too. The directory itself may be reached through any link: the user named it.
    A file that does not exist passes; whoever opens it says so.
    """
    path = directory / name
    root, target = (Path(os.path.realpath(p)) for p in (directory, path))
    allowed = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        allowed.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise InvalidError(
            path,
            Finding(
                "H-011",
                "a link that leaves the checkpoint directory",
                found=str(target),
                expected=f"inside {root}",
            ),
        )
    return path


def _read_shards(index: Path) -> tuple[dict[str, SourceTensor], tuple[SourceFile, ...]]:
    """The tensors of all shards, each in the one shard that the index names, and the shards by name."""
    weight_map = _weight_map(contained(index.parent, index.name))
    files: list[SourceFile] = []
    tensors: dict[str, SourceTensor] = {}
    for shard in sorted(set(weight_map.values())):
        file, found, _ = safetensors.read_header(_shard(index, shard))
        for name in found:
            if name in tensors:
                _refuse(
                    index,
                    "H-014",
                    f"the tensor is in two shards, {tensors[name].file.path.name} and {shard}",
                    name,
                )
            if name not in weight_map:
                _refuse(index, "H-015", f"{shard} holds a tensor that the index does not name", name)
        files.append(file)
        tensors |= found
    for name, shard in weight_map.items():
        if name not in tensors:
            _refuse(index, "H-013", f"{shard} lacks the tensor", name)
        if tensors[name].file.path.name != shard:
            _refuse(
                index,
                "H-013",
                f"the tensor is in {tensors[name].file.path.name}, and the index says otherwise",
                name,
                shard,
            )
    return tensors, tuple(files)


def _weight_map(path: Path) -> dict[str, str]:
    """Which shard each tensor is in: plain file names, not yet looked at."""
    index = strict_json.read(path, MAX_INDEX_NBYTES, "H-008")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(shard, str) for shard in weight_map.values())
    ):
        raise InvalidError(
            path,
            Finding(
                "H-009",
                "the index is not an object whose weight_map gives a file name for each tensor",
                "$.weight_map",
            ),
        )
    for name, shard in weight_map.items():
        if not _PLAIN_NAME.fullmatch(shard) or not shard.isprintable() or len(shard.encode()) > 255:
            _refuse(
                path, "H-010", "not the plain name of a .safetensors file in the same directory", name, shard
            )
    return weight_map


def _shard(index: Path, name: str) -> Path:
    path = contained(index.parent, name)
    if not _exists(path):
        raise InvalidError(
            index,
            Finding("H-012", f"the shard {name} is missing: the checkpoint is incomplete", "$.weight_map"),
        )
    return path


def _only_weights(directory: Path, names: Iterable[str]) -> str:
    """The one file of weights of a directory without an index.

    Mistral's own copy of the weights (consolidated*.safetensors) does not count beside others;
    model.safetensors wins over variants (model.fp16.safetensors), as in transformers; shards need their
    index.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    weights = [name for name in weights if not name.startswith("consolidated")] or weights
    if not weights:
        kinds = sorted(
            {suffix for name in names if (suffix := Path(name).suffix) in (".bin", ".pt", ".pth", ".gguf")}
        )
        hint = (
            f"; {' and '.join(kinds)} files are there, but only safetensors are read from a directory"
            if kinds
            else ""
        )
        raise InvalidError(directory, Finding("H-004", f"no .safetensors file{hint}"))
    for name in weights:
        match = _SHARD.fullmatch(name)
        if match and int(match[2]) > 1:
            raise InvalidError(
                directory,
                Finding(
                    "H-006",
                    f"{name} is one of several shards, but their index is missing: {match[1]}{INDEX_SUFFIX}",
                ),
            )
    if "model.safetensors" in weights:
        return "model.safetensors"
    if len(weights) > 1:
        raise InvalidError(
            directory,
            Finding(
                "H-005",
                f"several .safetensors files and no index; name the one that is meant: {_listed(weights)}",
            ),
        )
    return weights[0]


def _shard_stem(name: str) -> str | None:
    match = _SHARD.fullmatch(name)
    return match[1] if match else None


def _listed(names: list[str]) -> str:
    shown = (name if name.isprintable() else ascii(name) for name in names[:5])
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _exists(path: Path) -> bool:
    with storage_errors("read", path):
        return path.exists()


def _refuse(index: Path, rule: str, message: str, tensor: str, found: object = None) -> NoReturn:
    raise InvalidError(index, Finding(rule, message, json_path("weight_map", tensor), found=found))
