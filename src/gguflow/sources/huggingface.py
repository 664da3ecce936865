"""A checkpoint as the Hugging Face libraries lay it out: config.json, and the weights in one file or in shards with an index. Rules H-001 to H-011.

Nothing in such a directory is trusted: an index may name any path, a link may lead anywhere, and what is read here ends in a file that people
publish. So an index gives plain file names only, links stay inside the checkpoint, and index and shards must agree on every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gguflow.errors import FileError, Finding, InvalidError
from gguflow.platform import storage_errors
from gguflow.sources import safetensors, strict_json
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor, json_path

INDEX_SUFFIX = ".safetensors.index.json"
MAX_CONFIG_NBYTES = 16 << 20
MAX_INDEX_NBYTES = 100_000_000

_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")


def open_directory(directory: Path) -> Checkpoint:
    """Read config.json, find the weights of a checkpoint directory, and read every header.

    Raises a FileError with the rule that is broken, or StorageError.
    """
    config = read_config(directory)
    if config is None:
        raise InvalidError(directory, Finding("H-001", "no config.json; to convert tensors without a model, name the .safetensors file itself"))
    with storage_errors("read", directory):
        names = sorted(entry.name for entry in directory.iterdir())
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise InvalidError(directory, Finding("H-003", f"several indexes; name the one that is meant: {_listed(indexes)}"))
    if not indexes:
        file, tensors, _ = safetensors.read_header(contained(directory, _only_weights(directory, names)))
        return Checkpoint(directory, tensors, (file,), directory, config)
    checkpoint = open_index(directory / indexes[0])
    indexed = {file.path.name for file in checkpoint.files}
    stem = indexes[0].removesuffix(INDEX_SUFFIX)
    strays = [name for name in names if name not in indexed and (name == f"{stem}.safetensors" or _shard_stem(name) == stem)]
    if strays:
        message = (
            f"{indexes[0]} does not name {_listed(strays)} beside it: there is more than one model here; name the index or the file that is meant"
        )
        raise InvalidError(directory, Finding("H-003", message))
    return Checkpoint(directory, checkpoint.tensors, checkpoint.files, directory, config)


def open_index(path: Path) -> Checkpoint:
    """Read an index and the headers of the shards that it names, and prove that they agree. config.json beside it is read where there is one.

    Raises a FileError with the rule that is broken, or StorageError.
    """
    directory = path.parent
    weight_map = _weight_map(contained(directory, path.name))
    files: list[SourceFile] = []
    tensors: dict[str, SourceTensor] = {}
    for shard in sorted(set(weight_map.values())):
        file, found, _ = safetensors.read_header(_shard(path, shard))
        for name in found:
            if name in tensors:
                _refuse(path, "H-009", f"the tensor is in two shards: {tensors[name].file.path.name} and {shard}", name)
            if name not in weight_map:
                _refuse(path, "H-010", f"{shard} holds a tensor that the index does not name", name)
            if weight_map[name] != shard:
                _refuse(path, "H-008", f"the tensor is in {shard}, not in the shard that the index names", name, weight_map[name])
        files.append(file)
        tensors |= found
    for name, shard in weight_map.items():
        if name not in tensors:
            _refuse(path, "H-008", f"{shard} lacks the tensor", name)
    return Checkpoint(path, tensors, tuple(files), directory, read_config(directory))


def read_config(directory: Path) -> dict[str, Any] | None:
    """config.json, or None where there is none. Raises a FileError or StorageError."""
    if not (directory / "config.json").exists():
        return None
    path = contained(directory, "config.json")
    config = strict_json.read(path, MAX_CONFIG_NBYTES, "H-002", allow_infinity=True)
    if not isinstance(config, dict):
        raise InvalidError(path, Finding("H-002", "not a JSON object", found=type(config).__name__))
    return config


def contained(directory: Path, name: str) -> Path:
    """directory / name, proved to stay inside the checkpoint with its links resolved (H-007).

    In a Hugging Face cache the files of `models--*/snapshots/<revision>` are links into `models--*/blobs`: that one directory is inside too.
    The directory itself may be reached through any link: the user named it. A file that does not exist passes; whoever opens it says so.
    """
    path = directory / name
    with storage_errors("read", path):
        root, target = directory.resolve(), path.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        allowed.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise InvalidError(path, Finding("H-007", "a link that leaves the checkpoint directory", found=str(target), expected=f"inside {root}"))
    return path


def _weight_map(path: Path) -> dict[str, str]:
    """Which shard each tensor is in: plain file names, not yet looked at."""
    index = strict_json.read(path, MAX_INDEX_NBYTES, "H-004")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InvalidError(path, Finding("H-004", "the index is not an object whose weight_map gives a file name for each tensor", "$.weight_map"))
    for name, shard in weight_map.items():
        if not shard.endswith(".safetensors") or not shard.isprintable() or re.search(r"[/\\:]", shard):
            _refuse(path, "H-005", "not the plain name of a .safetensors file in the same directory", name, shard)
    return weight_map


def _shard(index: Path, name: str) -> Path:
    path = contained(index.parent, name)
    if not path.exists():
        raise InvalidError(index, Finding("H-006", f"the shard {name} is missing: the checkpoint is incomplete", "$.weight_map"))
    return path


def _only_weights(directory: Path, names: Iterable[str]) -> str:
    """The one file of weights of a directory without an index.

    Mistral's own copy of the weights (consolidated*.safetensors) does not count beside others; model.safetensors wins over variants
    (model.fp16.safetensors), as in transformers; shards need their index.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    weights = [name for name in weights if not name.startswith("consolidated")] or weights
    if not weights:
        kinds = sorted({suffix for name in names if (suffix := Path(name).suffix) in (".bin", ".pt", ".pth", ".gguf")})
        hint = f"; {' and '.join(kinds)} files are there, but only safetensors are read from a directory" if kinds else ""
        raise InvalidError(directory, Finding("H-003", f"no .safetensors file{hint}"))
    for name in weights:
        match = _SHARD.fullmatch(name)
        if match and int(match[2]) > 1:
            raise InvalidError(directory, Finding("H-003", f"{name} is one of several shards, but their index is missing: {match[1]}{INDEX_SUFFIX}"))
    if "model.safetensors" in weights:
        return "model.safetensors"
    if len(weights) > 1:
        raise InvalidError(directory, Finding("H-003", f"several .safetensors files and no index; name the one that is meant: {_listed(weights)}"))
    return weights[0]


def _shard_stem(name: str) -> str | None:
    match = _SHARD.fullmatch(name)
    return match[1] if match else None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse(index: Path, rule: str, message: str, tensor: str, found: object = None, error: type[FileError] = InvalidError) -> None:
    raise error(index, Finding(rule, message, json_path("weight_map", tensor), found=found))
