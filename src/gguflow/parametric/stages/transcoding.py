"""Codes and scales that move from one container to another as they are: a tensor of the parametric family
seen as the tensors that it is made of.

The source may be a payload of a GGUF file or what bitsandbytes keeps in parts, one source or a stack of them.
Rows may be put in another order if rows are whole blocks: blocks move with their rows, and no weight is
encoded again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from gguflow.blocks import FORMATS
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import ModelTensor
from gguflow.models.reading import ModelReader
from gguflow.models.views import over_items
from gguflow.parametric import Encoding, Geometry, Quantizer, codebooks
from gguflow.parametric.stages.payload_source import PayloadReader
from gguflow.parametric.stages.stored import encoding_of as stored_encoding
from gguflow.parametric.stages.stored import stored_of
from gguflow.parametric.views import (
    View,
    are_continuous,
    has_nested_views,
    has_views,
    holds,
    plain,
    weights_per_item,
)
from gguflow.quantization import Bytes
from gguflow.sources.base import SourceTensor, json_path


@dataclass(frozen=True)
class Part:
    """Codes, scales, or what nested scales are made of, as a tensor.

    tensor: the items.
    per: number of adjacent weights that belong to one item.
    """

    tensor: ModelTensor
    per: int

    def read(self, reader: ModelReader, first: int, last: int) -> Bytes:
        """The items that belong to weights [first, last) of the whole tensor, flat.

        reader: of the source.
        first: the first weight, with which an item must begin.
        last: the weight after the last one.
        """
        items = reader.read(self.tensor, first // self.per, -(-last // self.per))
        if items is None:
            raise ValueError(f"{self.tensor.name} has no source")
        return items


def encoding_of(tensor: ModelTensor) -> Encoding | None:
    """The encoding that all sources of a tensor have, if codes and scales can be kept in the order of its
    rows; else None.

    tensor: a tensor of the model.
    """
    encodings = {stored_encoding(source) for source in tensor.sources}
    if len(encodings) != 1 or not tensor.sources:
        return None
    (encoding,) = encodings
    is_carried = (
        encoding is not None
        and _moves_rows(tensor)
        and has_views(encoding)
        and _is_seen(tensor, View.CODES)
        and _is_seen(tensor, View.SCALES)
    )
    return encoding if is_carried else None


def _moves_rows(tensor: ModelTensor) -> bool:
    """Whether a tensor is its sources, or rows of them in another order, and nothing is computed."""
    if tensor.view is None:
        return True
    return over_items(tensor.view, lambda source: source, lambda shape: shape) is not None


def part(tensor: ModelTensor, view: View) -> Part:
    """A view of a tensor as a tensor of its own.

    tensor: has an `encoding_of`; for the nested views, it must also be `is_nested_whole`.
    view: what to show of it.
    """
    per = weights_per_item(stored_of(tensor.sources[0]).geometry, view)
    shape = _view_shape(tensor.shape, tensor.n_weights, per)
    seen = {id(source): _view(source, view, per) for source in tensor.sources}
    moved = None
    if tensor.view is not None:
        moved = over_items(
            tensor.view,
            lambda source: seen[id(source)],
            lambda whole: _view_shape(whole, math.prod(whole), per),
        )
    return Part(
        replace(
            tensor, shape=shape, sources=tuple(seen[id(source)] for source in tensor.sources), view=moved
        ),
        per,
    )


def is_nested_whole(tensor: ModelTensor) -> bool:
    """Whether nested scales can be kept too: the tensor is one whole source in its own order, whose
    super-blocks are continuous from chunk to chunk.

    tensor: has an `encoding_of`.
    """
    if len(tensor.sources) != 1 or tensor.view is not None:
        return False
    stored = stored_of(tensor.sources[0])
    is_all = stored.first == 0 and stored.geometry.n_weights == tensor.n_weights
    return (
        is_all and has_nested_views(stored.geometry.encoding) and are_continuous(stored.geometry, View.META)
    )


def exact(tensor: ModelTensor, wanted: Encoding) -> Encoding | None:
    """The encoding that holds exactly what the sources hold; None if weights must be encoded again.

    This is `wanted`, except for nested scales whose super-blocks are split: these become plain f32 scales.

    tensor: a tensor of the model.
    wanted: the encoding that is wanted.
    """
    given = encoding_of(tensor)
    if given is None or not holds(wanted, given):
        return None
    for encoding in (wanted, replace(plain(wanted), entropy=wanted.entropy)):
        needed = View.META if encoding.is_nested else View.SCALES
        if (not encoding.is_nested or is_nested_whole(tensor)) and are_continuous(
            Geometry(encoding, tensor.shape), needed
        ):
            return encoding
    return None


def sections(reader: ModelReader, tensor: ModelTensor, geometry: Geometry, i: int) -> Mapping[str, Bytes]:
    """The sections of a chunk of a tensor's payload, before entropy coding.

    A nested scale may be negative, as it is rounded on one side of its offset. If all weights of its run are
    zero, it is replaced by zero when plain scales are made of it.

    reader: of the source.
    tensor: a tensor of the model.
    geometry: of an encoding that `exact` returned.
    i: number of the chunk.

    Raises InvalidError (E-019) for a scale that no payload may have.
    """
    rows = geometry.chunk_rows(i)
    first = i * geometry.rows_per_chunk * geometry.columns
    last = first + rows * geometry.columns
    codes = np.zeros(geometry.n_runs(rows) * geometry.run_bytes, np.uint8)
    stored = part(tensor, View.CODES).read(reader, first, last)
    codes[: stored.size] = stored
    scales = part(tensor, View.SCALES).read(reader, first, last)
    if not geometry.encoding.is_nested:
        return {"codes": codes, "scales": _settled(tensor, geometry, codes, scales)}
    scale_codes, meta = (
        part(tensor, view).read(reader, first, last) for view in (View.SCALE_CODES, View.META)
    )
    return {"codes": codes, "scales": scale_codes, "meta": meta}


def offset(reader: ModelReader, tensor: ModelTensor) -> np.float32:
    """The offset of nested scales."""
    source = tensor.sources[0]
    payloads = cast(PayloadReader, reader.files.payload_reader(stored_of(source)))
    return np.float32(payloads.payload(source).tables["offset"][0])


def _is_seen(tensor: ModelTensor, view: View) -> bool:
    """Whether the items of a view belong to whole rows, so that rows may move and follow each other; or
    whether there is nothing to move.
    """
    geometries = [stored_of(source).geometry for source in tensor.sources]
    per = weights_per_item(geometries[0], view)
    if all(geometry.columns % per == 0 for geometry in geometries):
        return True
    is_all = stored_of(tensor.sources[0]).first == 0 and geometries[0].n_weights == tensor.n_weights
    return len(geometries) == 1 and tensor.view is None and is_all and are_continuous(geometries[0], view)


def _view(source: SourceTensor, view: View, per: int) -> SourceTensor:
    """The items of a source as a tensor. Codes prove what the source proves, so that it is proved once."""
    stored = stored_of(source)
    is_number = view in (View.SCALES, View.META)
    return replace(
        source,
        format=FORMATS["f32" if is_number else "i8"],
        shape=_view_shape(source.shape, source.n_weights, per),
        proof=source.proof if view is View.CODES else None,
        stored=replace(stored, view=view, first=stored.first // per),
    )


def _view_shape(shape: tuple[int, ...], n_weights: int, per: int) -> tuple[int, ...]:
    """[..., items of a row] where rows are whole items, else flat."""
    return (*shape[:-1], shape[-1] // per) if shape[-1] % per == 0 else (-(-n_weights // per),)


def _settled(tensor: ModelTensor, geometry: Geometry, codes: Bytes, scales: Bytes) -> Bytes:
    """Scales, proved to be finite and not negative, of the runs in `codes`."""
    values = scales.view("<f4").copy()
    if geometry.encoding.quantizer is Quantizer.CODEBOOK and geometry.encoding.bits == 4:
        zeros = np.flatnonzero(codebooks.fixed_values(geometry.encoding) == 0)
        below = np.flatnonzero(values < 0)
        runs = codes.reshape(-1, geometry.run_bytes)[below]
        values[below[np.isin(runs >> 4, zeros).all(axis=1) & np.isin(runs & 15, zeros).all(axis=1)]] = 0
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        source = tensor.sources[0]
        finding = Finding(
            "E-019", "a scale is not finite, or negative", json_path(source.name), found=float(values[bad][0])
        )
        raise InvalidError(source.file.path, finding)
    return values.view(np.uint8)
