"""What is written is proved: packed blocks are looked at when they are made, before they are written, by the
rules of values (V-001 to V-003, V-005) that `gguflow validate --level values` holds files to.

Only words that a format reserves are read (`gguflow.blocks.reserved`), while they are in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gguflow.blocks import BlockFormat, reserved
from gguflow.blocks.reserved import Look
from gguflow.conversion.plan import PlannedTensor
from gguflow.errors import Finding, InvalidError, listed
from gguflow.models.base import ModelTensor
from gguflow.quantization import Bytes, Floats, as_floats, first_vanished

_WIDER = {"F16": "bf16", "BF16": "f32"}


class Marks:
    """What was seen of the tensors of an output while they were written; by their numbers. Threads share it.

    with_content: those that hold something else than zeros.
    vanished: those of which some weights were not zero, and all of their piece became so.
    non_finite: those that hold NaN or infinity, which was allowed.
    """

    def __init__(self) -> None:
        self.with_content: set[int] = set()
        self.vanished: set[int] = set()
        self.non_finite: set[int] = set()


def prove(
    planned: PlannedTensor,
    i: int,
    first: int,
    packed: Bytes,
    weights: Floats | None,
    marks: Marks,
    *,
    allow_non_finite: bool,
) -> None:
    """Prove the blocks of a piece of tensor i, and mark what is to be said of it later.

    planned: the tensor.
    i: its number.
    first: the number of the piece's first weight.
    packed: its blocks, flat.
    weights: from which they were encoded; None where they are the source's.
    marks: of the output.
    allow_non_finite: whether NaN and infinity may stand where they stood in the source, or in plain numbers.

    Raises InvalidError (M-100 to M-102) with the index of a weight.
    """
    block_format = planned.blocks
    found = reserved.look(packed, block_format)
    if found.code is not None:
        if not allow_non_finite or (block_format.is_quantized and weights is not None):
            raise _unsound(planned, first, packed, weights, found)
        marks.non_finite.add(i)
    n_blocks = packed.size // block_format.type_size
    if weights is not None and found.zeros.size:
        _check_vanished(planned, first, packed, weights, found)
    if i in marks.with_content:
        return
    if found.zeros.size < n_blocks or as_floats(packed, block_format).any():
        marks.with_content.add(i)
    elif weights is not None and weights.any():
        marks.vanished.add(i)


def warnings(tensors: Sequence[tuple[int, PlannedTensor]], marks: Marks) -> Iterator[str]:
    """What is to be said of tensors that were written.

    tensors: with their numbers.
    marks: of their output.
    """
    matrices = [
        (i, p)
        for i, p in tensors
        if i not in marks.with_content and p.encoding is None and len(p.info.dims) > 1
        and p.tensor.n_weights and p.blocks.reserved_codes
    ]
    silent = [p.name for i, p in matrices if i not in marks.vanished]
    if silent:
        yield (
            f"{_tensors(silent)} all zeros: never written, or a placeholder ({listed(silent)}). "
            "Check the source if the model needs them"
        )
    gone = [p.name for i, p in matrices if i in marks.vanished]
    if gone:
        yield (
            f"{_tensors(gone)} all zeros now, because the weights are too small for the format "
            f"({listed(gone)}). A wider type keeps them (--tensor-type)"
        )
    odd = [p.name for i, p in tensors if i in marks.non_finite]
    if odd:
        holds = "1 tensor holds" if len(odd) == 1 else f"{len(odd)} tensors hold"
        yield (
            f"{holds} NaN or infinity, as was allowed ({listed(odd)}): "
            "`gguflow validate --level values` calls the file invalid"
        )


def _tensors(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _check_vanished(
    planned: PlannedTensor, first: int, packed: Bytes, weights: Floats, found: Look
) -> None:
    block_format = planned.blocks
    zeros = found.zeros
    if planned.importance is not None and zeros.size:
        zeros = np.array([k for k in zeros.tolist() if _counts(planned, first, k)], np.int64)
    bad = first_vanished(packed, block_format, weights, zeros)
    if bad >= 0:
        why = f"which {block_format.name} would make zero, with all of its block{_remedy(planned)}"
        raise weight_error("M-102", planned.tensor, first + bad, weights[bad], why)


def _counts(planned: PlannedTensor, first: int, block: int) -> bool:
    """Whether some column of a block has an importance above 0."""
    if planned.importance is None:
        return True
    size, row = planned.blocks.block_size, planned.shape[-1]
    at = first + block * size
    matrix = at // (row * (planned.shape[-2] if len(planned.shape) > 1 else 1))
    column = at % row
    return bool(planned.importance.of_matrix(matrix, row)[column : column + size].any())


def _unsound(
    planned: PlannedTensor, first: int, packed: Bytes, weights: Floats | None, found: Look
) -> InvalidError:
    """The error for blocks that hold a reserved code."""
    block_format: BlockFormat = planned.blocks
    start = found.block * block_format.block_size
    if weights is not None:
        bad = start + int(np.abs(weights[start : start + block_format.block_size]).argmax())
        weight = weights[bad]
        if not block_format.is_quantized:
            if not math.isfinite(weight):
                return _not_finite(planned.tensor, first + bad, weight)
            why = f"which does not fit {block_format.name} (choose {_WIDER.get(block_format.name, 'f32')})"
            return weight_error("M-100", planned.tensor, first + bad, weight, why)
        what = found.code.what if found.code is not None else "d"
        why = (
            f"for which {block_format.name} has no finite scale: {what} of its block would be NaN or "
            f"infinite{_remedy(planned)}"
        )
        return weight_error("M-101", planned.tensor, first + bad, weight, why)
    if not block_format.is_quantized:
        size = block_format.type_size
        weight = as_floats(packed[start * size : (start + 1) * size].copy(), block_format)[0]
        return _not_finite(planned.tensor, first + start, weight)
    what = found.code.what if found.code is not None else "d"
    index = _index(planned.tensor, first + start)
    message = (
        f"tensor {planned.tensor.name!r}: the scale {what} of the block at index {index} is NaN or infinite in "
        "the source; --allow-non-finite keeps it"
    )
    return _error("M-101", planned.tensor, message)


def _not_finite(tensor: ModelTensor, i: int, weight: np.float32) -> InvalidError:
    why = "where a model needs a number; --allow-non-finite keeps it"
    return weight_error("M-100", tensor, i, weight, why)


def _remedy(planned: PlannedTensor) -> str:
    if planned.importance is None:
        return f"; keep the tensor in a wider format (--tensor-type '{planned.name}=bf16')"
    return f"; its importance or its size is out of range: keep it in a wider format, or leave out the imatrix"


def weight_error(rule: str, tensor: ModelTensor, i: int, weight: np.float32, why: str) -> InvalidError:
    """The error that names weight i of a tensor, and says why it cannot be written."""
    message = f"tensor {tensor.name!r} holds {weight} at index {_index(tensor, i)}, {why}"
    return _error(rule, tensor, message)


def _index(tensor: ModelTensor, i: int) -> list[int]:
    return [int(k) for k in np.unravel_index(i, tensor.shape)]


def _error(rule: str, tensor: ModelTensor, message: str) -> InvalidError:
    path = tensor.source.file.path if tensor.source else "the model"
    return InvalidError(path, Finding(rule, message, f"$.tensors[{tensor.name!r}]"))
