"""The weights of a model's tensors, read piece by piece: of one source or of several, as they stand or with
their rows in another order; as packed blocks, or as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import BlockFormat
from gguflow.models.base import ModelTensor
from gguflow.quantization import Bytes, Floats, decode
from gguflow.sources import TensorReader
from gguflow.sources.base import Checkpoint, SourceTensor


class ModelReader:
    """Reads the tensors of a model from the files of its checkpoint, for many threads.

    checkpoint: holds the sources of the tensors.
    io: "mmap" or "pread", as in `TensorReader`.
    """

    def __init__(self, checkpoint: Checkpoint, io: str = "mmap") -> None:
        self.files = TensorReader(checkpoint, io)

    def __enter__(self) -> ModelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.files.close()

    def read(self, tensor: ModelTensor, first: int, last: int) -> Bytes | None:
        """The packed source of weights of a tensor, flat; None if the tensor's values are given as numbers.

        tensor: a tensor of the model.
        first: the first weight, which must begin a block.
        last: the weight after the last one, which must end a block.

        Raises what `TensorReader.read` raises.
        """
        if tensor.source is None:
            is_bytes = tensor.values is not None and tensor.values.dtype == np.uint8
            return tensor.values[first:last] if is_bytes and tensor.values is not None else None
        if tensor.view is not None:
            return tensor.view.read(self.files, first, last)
        if len(tensor.sources) == 1:
            return self.files.read(tensor.source, first, last)
        parts = [self.files.read(*part) for part in tensor.parts(first, last)]
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.uint8)])

    def floats(
        self,
        tensor: ModelTensor,
        first: int,
        last: int,
        raw: Bytes | None = None,
        out: Floats | None = None,
    ) -> Floats:
        """Weights of a tensor, flat: float32[last - first].

        tensor: a tensor of the model.
        first: the first weight, as in `read`.
        last: the weight after the last one, as in `read`.
        raw: what `read` returned for them, if it was called already.
        out: where to put them, float32[last - first or more]; not used for values that are given as numbers.

        Raises what `read` raises, ValueError if the tensor has neither a source nor numbers.
        """
        if tensor.source is None:
            if tensor.values is None or tensor.values.dtype == np.uint8:
                raise ValueError(f"{tensor.name} has neither a source nor values")
            return np.ascontiguousarray(tensor.values, np.float32).reshape(-1)[first:last]
        packed = self.read(tensor, first, last) if raw is None else raw
        if packed is None:
            raise ValueError(f"{tensor.name} has nothing to read")
        weights = np.empty(last - first, np.float32) if out is None else out[: last - first]
        _decode(packed, required_format(tensor), weights)
        return weights

    def doubles(self, tensor: ModelTensor, first: int, last: int) -> NDArray[np.float64]:
        """Weights of a tensor, flat and exact: float64[last - first].

        tensor: a tensor of the model.
        first: the first weight, as in `read`.
        last: the weight after the last one, as in `read`.

        Raises what `floats` raises.
        """
        number_type = required_format(tensor).number_type if tensor.source is not None else None
        raw = self.read(tensor, first, last)
        if raw is not None and number_type is not None and number_type != np.dtype("<f2"):
            return raw.view(number_type).astype(np.float64)
        return self.floats(tensor, first, last, raw).astype(np.float64)

    def prefetch(self, tensor: ModelTensor, first: int, last: int) -> None:
        """Tell the system that weights will be read soon: a hint.

        tensor: a tensor of the model.
        first: the first weight.
        last: the weight after the last one.
        """
        if tensor.view is not None:
            for part in _shares(tensor, first, last):
                self.files.expect(*part)
            return
        for part in tensor.parts(first, last) if tensor.source is not None else ():
            self.files.expect(*part)

    def done(self, tensor: ModelTensor, first: int, last: int) -> None:
        """Check that the files have not changed while weights were read, and release the memory pages.

        tensor: a tensor of the model.
        first: the first weight.
        last: the weight after the last one.

        Raises InvalidError (R-002), StorageError.
        """
        if tensor.source is None:
            return
        if tensor.view is not None:
            for file in {source.file for source in tensor.sources}:
                self.files.check_unchanged(file)
            for part in _shares(tensor, first, last):
                self.files.release(*part)
            return
        parts = list(tensor.parts(first, last))
        for file in {source.file for source, _, _ in parts}:
            self.files.check_unchanged(file)
        for part in parts:
            self.files.release(*part)

    def check_unchanged(self) -> None:
        """Check that no file has changed.

        Raises InvalidError (R-002), StorageError.
        """
        self.files.check_unchanged()


def _shares(tensor: ModelTensor, first: int, last: int) -> Iterator[tuple[SourceTensor, int, int]]:
    """About what a view reads for weights [first, last): of each source the same share.

    It serves hints only, which may be wrong. Views that move rows inside a head, an expert or a group of
    heads read nearly this.
    """
    for source in tensor.sources:
        block_size = source.require_format().block_size
        start, stop = (
            source.n_weights * weight // max(tensor.n_weights, 1) // block_size * block_size
            for weight in (first, last)
        )
        yield source, start, stop


def required_format(tensor: ModelTensor) -> BlockFormat:
    """The format in which a tensor's weights are read.

    tensor: of the model, with a source.

    Raises UnsupportedError (S-019), ValueError if it has no source.
    """
    found = tensor.source_format
    if found is None:
        raise ValueError(f"{tensor.name} has no source")
    return found


def _decode(packed: Bytes, block_format: BlockFormat, weights: Floats) -> None:
    """Packed blocks to float32; of the numbers that have no kernel, the nearest float32."""
    number_type = block_format.number_type
    if number_type is not None and number_type.itemsize == 8:
        weights[:] = packed.view(number_type)
    else:
        decode(packed, block_format, weights)


def tile_ranges(first: int, last: int, row: int, target: int) -> Iterator[tuple[int, int]]:
    """Cut weights into tiles of about `target`: some whole rows, or a part of one row.

    first: the first weight.
    last: the weight after the last one.
    row: weights of a row.
    target: weights of a tile, a multiple of every block size.
    """
    while first < last:
        within = first % row
        if within == 0 and row <= min(target, last - first):
            stop = first + min(target // row, (last - first) // row) * row
        else:
            stop = min(first + target, first - within + row, last)
        yield first, stop
        first = stop
