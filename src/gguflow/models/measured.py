"""Hyper-parameters that a checkpoint keeps as tensors: few numbers, read while the model is understood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, InvalidError
from gguflow.models.architecture import Architecture
from gguflow.models.documents import Document
from gguflow.models.parameters import Parameters
from gguflow.models.refusals import require_numbers
from gguflow.models.views import Leaf, numbers_of
from gguflow.sources import TensorReader
from gguflow.sources.base import Checkpoint, json_path

MAX_WEIGHTS = 4096
"""Of such a tensor."""


def measured_keys(
    architecture: Architecture, checkpoint: Checkpoint, config: Document, parameters: Parameters
) -> Metadata:
    """The keys that a family makes of tensors; none for nearly all families.

    architecture: the family.
    checkpoint: the tensors.
    config: config.json.
    parameters: the other hyper-parameters.

    Raises InvalidError (M-012) for a tensor of more than a few numbers, and what reading it and
    `Architecture.measure` raise.
    """
    if architecture.measure is None:
        return {}
    found: dict[str, NDArray[np.float32]] = {}
    with TensorReader(checkpoint) as reader:
        for source in checkpoint.tensors.values():
            name = architecture.rename(source.name, config)
            if name is None or not architecture.is_measured(name):
                continue
            require_numbers(source)
            if source.n_weights > MAX_WEIGHTS:
                message = f"{source.name!r} is a hyper-parameter, and should be a few numbers"
                finding = Finding("M-012", message, json_path(source.name), found=list(source.shape))
                raise InvalidError(source.file.path, finding)
            numbers = numbers_of(Leaf(source), reader, 0, source.n_weights)
            found[name] = numbers.astype(np.float32)
    return architecture.measure(found, parameters)
