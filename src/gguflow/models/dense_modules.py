"""Dense layers that sentence-transformers puts behind an encoder, each in a directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from gguflow.container.metadata import u32
from gguflow.errors import Finding, UnsupportedError, warn
from gguflow.models.documents import Document, read_json
from gguflow.models.keys import Keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Rule, same
from gguflow.sources import open_checkpoint
from gguflow.sources.base import Checkpoint
from gguflow.sources.links import contained

LAYERS = {"2_Dense": "dense_2", "3_Dense": "dense_3"}
"""Directories, and what llama.cpp calls the layers, which it applies in this order."""

_WEIGHTS = "model.safetensors"
_MATRIX = "linear.weight"


def with_dense_layers(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with the matrices of its dense layers, under the names of their directories.

    checkpoint: of an encoder; without a modules.json it stays as it is.

    Raises UnsupportedError (M-006) for layers that llama.cpp does not have, InvalidError (M-002, M-003,
    H-011), and what `open_checkpoint` raises.
    """
    if checkpoint.directory is None:
        return checkpoint
    tensors, files = dict(checkpoint.tensors), list(checkpoint.files)
    for module in _modules(checkpoint.directory):
        path = module.text("path")
        if path not in LAYERS:
            message = "llama.cpp has two dense layers behind an encoder, of these directories"
            found = Finding("M-006", message, module.at("path"), found=path, expected=", ".join(LAYERS))
            raise UnsupportedError(module.file, found)
        layer = open_checkpoint(contained(checkpoint.directory, f"{path}/{_WEIGHTS}"))
        tensors |= {f"{path}.{name}": replace(t, name=f"{path}.{name}") for name, t in layer.tensors.items()}
        files += layer.files
    return replace(checkpoint, tensors=tensors, files=tuple(files))


def put_keys(keys: Keys, directory: Path) -> None:
    """The widths of dense layers whose matrices are there; a warning (M-053) of those that are left out.

    keys: where they are put.
    directory: the checkpoint's.

    Raises UnsupportedError (M-006) for a layer that is more than a matrix, InvalidError (M-002, M-003).
    """
    for module in _modules(directory):
        path = module.text("path")
        if f"{path}.{_MATRIX}" not in keys.config.tensors:
            message = (
                "a dense layer behind the encoder is left out, so that embeddings are not those of "
                "sentence-transformers; --dense-modules keeps it"
            )
            warn(module.file, Finding("M-053", message, module.at("path"), found=path))
            continue
        name = str(PurePosixPath(path) / "config.json")
        config = Document.read(directory, name)
        if config is None:
            raise module.wrong("path", path, "a directory with a config.json")
        activation = config.text("activation_function", "Identity").rpartition(".")[2]
        if config.flag("bias", False) or activation != "Identity":
            message = "dense layers behind an encoder are matrices in llama.cpp, without bias and activation"
            raise UnsupportedError(config.file, Finding("M-006", message, found=activation))
        for key in ("in", "out"):
            keys.put(f"{LAYERS[path]}_feat_{key}", u32(config.integer(f"{key}_features")))


def rules(p: Parameters) -> Iterator[Rule]:
    """The matrices of dense layers.

    p: hyper-parameters.
    """
    for path, name in LAYERS.items():
        if p.has(f"{name}_feat_out"):
            shape = (p.integer(f"{name}_feat_out", minimum=1), p.integer(f"{name}_feat_in", minimum=1))
            yield same(f"{path}.{_MATRIX}", f"{name}.weight", shape)


def _modules(directory: Path) -> Iterator[Document]:
    """The dense layers in modules.json."""
    modules = Document(directory / "modules.json", {"modules": read_json(directory, "modules.json")})
    for module in modules.sections("modules"):
        if module.text("type").endswith("Dense"):
            yield module
