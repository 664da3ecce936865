"""What is written is proved: packed blocks are looked at when they are made, before they are written, by the
rules of values (V-001 to V-003, V-005) that `gguflow validate --level values` holds files to.

Only words that a format reserves are read (`gguflow.blocks.reserved`), while they are in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import BlockFormat
from gguflow.blocks.reserved import NOTHING, Look
from gguflow.conversion.plan import PlannedTensor
from gguflow.errors import Finding, InvalidError, listed
from gguflow.models.base import ModelTensor
from gguflow.quantization import Bytes, Floats, as_floats, first_lost, first_vanished

_WIDER = {"F16": "bf16", "BF16": "f32"}


class Marks:
    """What was seen of the tensors of an output while they were written, as sets of their numbers. Threads
    share it.

    with_content: tensors that hold something other than zeros.
    vanished: tensors with weights that were not zero, in a piece that became all zero.
    non_finite: tensors that hold NaN or infinity, which was allowed.
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
    found: Look,
    marks: Marks,
    *,
    allow_non_finite: bool,
) -> None:
    """Check the blocks of a piece of a tensor, and mark what will be reported about them later.

    planned: the tensor.
    i: its number.
    first: number of the piece's first weight.
    packed: its blocks, flat.
    weights: from which the blocks were encoded; None if they are those of the source.
    found: what the look at the blocks found.
    marks: of the output.
    allow_non_finite: whether NaN and infinity are kept if they were in the source, or in plain numbers.

    Raises InvalidError (M-100 to M-102) with the index of a weight.
    """
    block_format = planned.blocks
    if found is NOTHING and i in marks.with_content and (weights is None or math.isinf(block_format.cut_off)):
        return
    if found.code is not None:
        if not allow_non_finite or (block_format.is_quantized and weights is not None):
            raise _unsound(planned, first, packed, weights, found)
        marks.non_finite.add(i)
    n_blocks = packed.size // block_format.type_size
    if weights is not None and found.zeros.size:
        _check_vanished(planned, first, packed, weights, found.zeros)
    if weights is not None and (lost := first_lost(block_format, weights)) >= 0:
        why = f"which is more than {block_format.name} can hold{_remedy(planned)}"
        raise weight_error("M-101", planned.tensor, first + lost, weights[lost], why)
    if i in marks.with_content:
        return
    if found.zeros.size < n_blocks or numbers_of(packed, block_format).any():
        marks.with_content.add(i)
    elif weights is not None and weights.any():
        marks.vanished.add(i)


def warnings(tensors: Sequence[tuple[int, PlannedTensor]], marks: Marks) -> Iterator[Finding]:
    """What is doubtful about tensors that were written.

    tensors: with their numbers.
    marks: of their output.
    """
    silent = [(i, p) for i, p in tensors if i not in marks.with_content and _is_matrix(p)]
    placeholders = [p.name for i, p in silent if i not in marks.vanished]
    if placeholders:
        message = f"{_tensors(placeholders)} all zeros: never written, or placeholders"
        yield Finding("V-005", f"{message}: {listed(placeholders)}", "$.tensors", severity="warning")
    gone = [p.name for i, p in silent if i in marks.vanished]
    if gone:
        message = f"{_tensors(gone)} all zeros, because their weights are too small for their format"
        remedy = "a wider one keeps them (--tensor-type)"
        yield Finding("M-103", f"{message}; {remedy}: {listed(gone)}", "$.tensors", severity="warning")
    odd = [p.name for i, p in tensors if i in marks.non_finite]
    if odd:
        holds = "1 tensor holds" if len(odd) == 1 else f"{len(odd)} tensors hold"
        message = f"{holds} NaN or infinity, as was allowed; `validate --level values` calls that invalid"
        yield Finding("V-003", f"{message}: {listed(odd)}", "$.tensors", severity="warning")


def _is_matrix(planned: PlannedTensor) -> bool:
    """Whether zeros are odd: in a matrix of numbers."""
    dims = [n for n in planned.shape if n != 1]
    is_numbers = planned.encoding is not None or bool(planned.blocks.reserved_codes)
    return is_numbers and len(dims) > 1 and planned.tensor.n_weights > 0


def _tensors(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _check_vanished(
    planned: PlannedTensor, first: int, packed: Bytes, weights: Floats, zeros: NDArray[np.int64]
) -> None:
    if planned.importance is not None:
        zeros = zeros[_counts(planned, first, zeros)]
    bad = first_vanished(packed, planned.blocks, weights, zeros)
    if bad >= 0:
        why = f"which {planned.blocks.name} would make zero, and its whole block{_remedy(planned)}"
        raise weight_error("M-102", planned.tensor, first + bad, weights[bad], why)


def _counts(planned: PlannedTensor, first: int, blocks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each of some blocks, whether one of its columns has an importance above 0."""
    if planned.importance is None:
        return np.ones(blocks.size, np.bool_)
    size, row = planned.blocks.block_size, planned.shape[-1]
    rows_per_matrix = planned.shape[-2] if len(planned.shape) > 1 else 1
    rows, columns = np.divmod(first + blocks * size, row)
    matrices = rows // rows_per_matrix
    found = np.zeros(blocks.size, np.bool_)
    for matrix in np.unique(matrices).tolist():
        counts = planned.importance.of_matrix(matrix, row).reshape(-1, size).max(axis=1)
        inside = matrices == matrix
        found[inside] = counts[columns[inside] // size] > 0
    return found


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
                return not_finite_error(planned.tensor, first + bad, weight)
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
        weight = numbers_of(packed[start * size : (start + 1) * size].copy(), block_format)[0]
        return not_finite_error(planned.tensor, first + start, weight)
    what = found.code.what if found.code is not None else "d"
    index = _index(planned.tensor, first + start)
    message = (
        f"tensor {planned.tensor.name!r}: in the source, the scale {what} of the block at index {index} is "
        "NaN or infinite; --allow-non-finite keeps it"
    )
    return _error("M-101", planned.tensor, message)


def numbers_of(packed: Bytes, block_format: BlockFormat) -> NDArray[Any]:
    """The weights of blocks, in binary64 if the format is F64.

    packed: the blocks, flat.
    block_format: their format.
    """
    return packed.view("<f8") if block_format.key == "f64" else as_floats(packed, block_format)


def not_finite_error(tensor: ModelTensor, i: int, weight: np.floating[Any]) -> InvalidError:
    """The error that names a weight that is NaN or infinite, in numbers that are kept as they are.

    tensor: the tensor.
    i: number of the weight in the flattened tensor.
    weight: its value.
    """
    why = "where a model needs a number; --allow-non-finite keeps it"
    return weight_error("M-100", tensor, i, weight, why)


def _remedy(planned: PlannedTensor) -> str:
    if planned.importance is None:
        return f"; keep the tensor in a wider format (--tensor-type '{planned.name}=bf16')"
    return "; it or its importance is too large: choose a wider format, or leave out the imatrix"


def weight_error(rule: str, tensor: ModelTensor, i: int, weight: np.floating[Any], why: str) -> InvalidError:
    """The error that names a weight and says why it cannot be written.

    rule: id of the rule.
    tensor: the tensor.
    i: number of the weight in the flattened tensor.
    weight: its value.
    why: the end of the message.
    """
    message = f"tensor {tensor.name!r} holds {weight} at index {_index(tensor, i)}, {why}"
    return _error(rule, tensor, message)


def _index(tensor: ModelTensor, i: int) -> list[int]:
    return [int(k) for k in np.unravel_index(i, tensor.shape)]


def _error(rule: str, tensor: ModelTensor, message: str) -> InvalidError:
    path = tensor.source.file.path if tensor.source else "the model"
    return InvalidError(path, Finding(rule, message, f"$.tensors[{tensor.name!r}]"))
