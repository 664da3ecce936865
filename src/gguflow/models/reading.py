"""Reads the weights of a model's tensors in pieces: from one source or several, in either row order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gguflow.arrays import Bytes
from gguflow.models.base import ModelTensor
from gguflow.sources import TensorReader


def packed(reader: TensorReader, tensor: ModelTensor, first: int, last: int) -> Bytes | None:
    """The packed source bytes of weights [first, last) of a tensor, in whole blocks; None if it has values.

    Raises what TensorReader.read raises.
    """
    if tensor.source is None:
        return (
            tensor.values[first:last]
            if tensor.values is not None and tensor.values.dtype == np.uint8
            else None
        )
    if tensor.row_order is None:
        parts = [reader.read(*part) for part in tensor.parts(first, last)]
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.uint8)])
    row = tensor.n_weights // tensor.shape[0]  # of a vector (a bias of Q or K), the rows are its weights
    first_row, last_row = first // row, -(-last // row)
    rows = reader.read_rows(
        tensor.source, tensor.row_order.source_rows(first_row, last_row, tensor.shape[0])
    ).reshape(-1)
    block = tensor.source.require_format()
    start, stop = (
        (weight - first_row * row) // block.block_size * block.type_size for weight in (first, last)
    )
    return rows[start:stop]


def expect(reader: TensorReader, tensor: ModelTensor, first: int, last: int) -> None:
    """Tell the system to prefetch weights [first, last), which will be read soon."""
    for part in tensor.parts(first, last) if tensor.source is not None else ():
        reader.expect(*part)


def leave(reader: TensorReader, tensor: ModelTensor, first: int, last: int) -> None:
    """After weights [first, last) have been read: check that the files are unchanged, and release pages."""
    if tensor.source is None:
        return
    if tensor.row_order is not None:  # rows move only within a head, so what was read is nearly one range
        reader.check_unchanged(tensor.source.file)
        row = tensor.n_weights // tensor.shape[0]
        rows = tensor.row_order.source_rows(first // row, -(-last // row), tensor.shape[0])
        reader.release(tensor.source, int(rows.min()) * row, (int(rows.max()) + 1) * row)
        return
    parts = list(tensor.parts(first, last))
    for file in {source.file for source, _, _ in parts}:
        reader.check_unchanged(file)
    for part in parts:
        reader.release(*part)


def tiles(first: int, last: int, row: int, target: int) -> Iterator[tuple[int, int]]:
    """Cut weights [first, last) into tiles of about `target`: whole rows, or a part of one row.

    target: a multiple of every block size.
    """
    while first < last:
        within = first % row
        if within == 0 and row <= min(target, last - first):
            stop = first + min(target // row, (last - first) // row) * row
        else:
            stop = min(first + target, first - within + row, last)
        yield first, stop
        first = stop
