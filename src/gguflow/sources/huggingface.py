"""A checkpoint as the Hugging Face libraries lay it out: config.json, and the weights in one file or in
shards with an index. Rules H-001 to H-019.

Nothing in such a directory is trusted: an index may name any path, a link may lead anywhere, and what is read
here ends in a file that people publish. So an index gives plain file names only, links to anything that is
copied stay inside the checkpoint or lead to where the Hugging Face libraries keep downloads (`links.py`), and
index and shards must agree on every tensor. Weights may be linked from anywhere: they prove what they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gguflow.errors import Finding, InvalidError, listed, warn
from gguflow.platform import storage_errors
from gguflow.sources import advice, safetensors, strict_json
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor, json_path
from gguflow.sources.links import contained, is_there
from gguflow.sources.weights import COPY, Shard, choose, complete_set, found, names_in

CONFIG, PARAMS = "config.json", "params.json"
"""The configuration, of transformers and of Mistral's own form."""

MAX_CONFIG_NBYTES = 16 << 20
MAX_INDEX_NBYTES = 100_000_000

_PLAIN_NAME = re.compile(r"[^/\\:]+\.safetensors")


def open_directory(directory: Path, *, with_weights: bool = True, mistral: bool = False) -> Checkpoint:
    """Read config.json, find the weights of a checkpoint directory, and read every header.

    If there were several copies of the weights, the choice is reported as a warning (H-018).

    directory: the checkpoint directory.
    mistral: whether it is in Mistral's own form, of which only params.json and consolidated* are read.
    with_weights: whether the weights are looked for; without, there may be none.

    Raises a FileError with the broken rule, or StorageError.
    """
    with storage_errors("read", directory):
        names = sorted(os.listdir(directory))
    config_name = PARAMS if mistral else CONFIG
    config = read_config(directory, config_name)
    if config is None and mistral:
        message = f"no {PARAMS}: this is not Mistral's own form of a model; leave out --mistral-format"
        raise InvalidError(directory, Finding("H-001", message))
    if config is None:
        raise advice.without_config(directory, names)
    if not with_weights:
        return Checkpoint(directory, {}, (), directory, config, config_name=config_name)
    weights = choose(directory, [name for name in names if not mistral or name.startswith(COPY)])
    if weights.index is not None:
        tensors, files = _read_shards(directory / weights.index)
        strays = weights.others({file.path.name for file in files})
        if strays:
            message = (
                f"{weights.index} does not name {listed(strays)} beside it: "
                "two models in one directory; name the index or the file to convert"
            )
            raise InvalidError(directory, Finding("H-007", message))
    else:
        tensors, files = read_set(directory, weights.files)
    return Checkpoint(directory, tensors, files, directory, config, config_name=config_name)


def read_set(directory: Path, names: Sequence[str]) -> tuple[dict[str, SourceTensor], tuple[SourceFile, ...]]:
    """The tensors of files that belong together without an index, and the files.

    directory: the directory of the files.
    names: the names of the files.

    Raises a FileError with the broken rule (H-014: a tensor in two files), or StorageError.
    """
    tensors: dict[str, SourceTensor] = {}
    files: list[SourceFile] = []
    for name in names:
        file, found, _ = safetensors.read_header(directory / name)
        for tensor in found:
            if tensor in tensors:
                message = f"the tensor is in two shards, {tensors[tensor].file.path.name} and {name}"
                raise InvalidError(directory, Finding("H-014", message, json_path(tensor)))
        tensors |= found
        files.append(file)
    return tensors, tuple(files)


def open_index(path: Path) -> Checkpoint:
    """Read an index and the headers of the shards that it names, and prove that they agree.

    config.json beside the index is read if there is one.

    path: the path of the index.

    Raises a FileError with the broken rule, or StorageError.
    """
    tensors, files = _read_shards(path)
    return Checkpoint(path, tensors, files, path.parent, read_config(path.parent))


def open_file(path: Path) -> Checkpoint:
    """Read the header of a single file; of the first of several shards without an index, all headers.

    path: the path of the file.

    Raises a FileError with the broken rule, or StorageError.
    """
    shard, names = Shard.of(path.name), [path.name]
    if shard is not None and shard.number == 1 and shard.n_shards > 1:
        beside = names_in(path.parent)
        copy = found(beside).get(shard.stem)
        if copy is not None and copy.index is None:
            names = list(complete_set(beside, shard)) or names
    if len(names) > 1:
        message = f"there is no index: all {len(names)} shards of this name are read"
        warn(path, Finding("H-018", message))
    tensors, files = read_set(path.parent, names)
    return Checkpoint(path, tensors, files)


def read_config(directory: Path, name: str = CONFIG) -> dict[str, Any] | None:
    """The content of config.json, or None if there is none.

    directory: the checkpoint directory.
    name: of the file, if it has another.

    Raises a FileError or StorageError.
    """
    path = contained(directory, name)
    if not is_there(path):
        return None
    config = strict_json.read(path, MAX_CONFIG_NBYTES, "H-002", allow_infinity=True)
    if not isinstance(config, dict):
        raise InvalidError(path, Finding("H-003", "not a JSON object", found=type(config).__name__))
    return config


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
    path = index.parent / name
    if not is_there(path):
        raise InvalidError(
            index,
            Finding("H-012", f"the shard {name} is missing: the checkpoint is incomplete", "$.weight_map"),
        )
    return path


def _refuse(index: Path, rule: str, message: str, tensor: str, found: object = None) -> NoReturn:
    raise InvalidError(index, Finding(rule, message, json_path("weight_map", tensor), found=found))
