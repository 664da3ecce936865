"""Pooling of embedding models, from sentence-transformers' modules.json and its pooling module's config."""

from __future__ import annotations

import enum
from pathlib import Path, PurePosixPath

from gguflow.container.metadata import Metadata, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.documents import Document, read_json


class PoolingType(enum.IntEnum):
    """llama.cpp's LLAMA_POOLING_TYPE."""

    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4


_FLAGS = {
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_lasttoken": PoolingType.LAST,
}
_MODES = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "lasttoken": PoolingType.LAST}


def pooling_metadata(name: str, directory: Path) -> Metadata:
    """`{name}.pooling_type`, or nothing if the checkpoint is not from sentence-transformers.

    Raises UnsupportedError (M-006) for other ways of pooling, InvalidError (M-002, M-003; H-011 for a path
    outside the directory).
    """
    modules = Document(directory / "modules.json", {"modules": read_json(directory, "modules.json")})
    for module in modules.sections("modules"):
        if module.text("type").endswith("Pooling"):
            return {f"{name}.pooling_type": u32(_pooling_type(directory, module))}
    return {}


def _pooling_type(directory: Path, module: Document) -> PoolingType:
    config_name = str(PurePosixPath(module.text("path")) / "config.json")
    config = Document.read(directory, config_name)
    if config is None:
        raise module.wrong("path", module.text("path"), "a directory with a config.json")
    for flag, pooling in _FLAGS.items():
        if config.values.get(flag):
            return pooling
    mode = config.text("pooling_mode", "")
    if mode not in _MODES:
        message = "llama.cpp pools by mean, by the first token or by the last"
        found = mode or [key for key, value in config.values.items() if value is True]
        raise UnsupportedError(
            config.file, Finding("M-006", message, "$.pooling_mode", found=found, expected=", ".join(_MODES))
        )
    return _MODES[mode]


def classifier_pooling(name: str, config: Document) -> Metadata:
    """`{name}.classifier.pooling_type`, if config.json says what a classifier pools; else nothing.

    name: `general.architecture`.
    config: config.json.

    Raises UnsupportedError (M-006) for another way in a model with a classifier, InvalidError (M-003).
    """
    mode = config.text("classifier_pooling", "")
    if mode in ("cls", "mean"):
        return {f"{name}.classifier.pooling_type": u32(_MODES[mode])}
    if mode and any(str(cls).endswith("Classification") for cls in config.items("architectures")):
        message = "llama.cpp classifies the first token, or the mean of all"
        finding = Finding("M-006", message, config.at("classifier_pooling"), found=mode, expected="cls, mean")
        raise UnsupportedError(config.file, finding)
    return {}
