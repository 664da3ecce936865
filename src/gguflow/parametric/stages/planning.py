"""Payloads in a plan: which encoding a tensor can keep, and how many bytes its payload takes."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from gguflow import blocks
from gguflow.blocks.families import Encoding as AnyEncoding
from gguflow.blocks.families import Format
from gguflow.errors import ShapeError, UsageError
from gguflow.models.base import ModelTensor
from gguflow.parametric import entropy, views
from gguflow.parametric.axes import Entropy, SourceType
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.stages import transcoding
from gguflow.parametric.stages.stored import stored_of

_SOURCE_TYPES = {
    "f32": SourceType.F32,
    "f16": SourceType.F16,
    "bf16": SourceType.BF16,
    "f64": SourceType.F64,
}


def versions() -> str:
    """What decides the bytes of payloads in addition to this package."""
    return f"zstd {entropy.library_version()}"


def encoding_of(tensor: ModelTensor) -> Encoding | None:
    """The encoding whose codes and scales a tensor could keep, or None."""
    return transcoding.encoding_of(tensor)


def keeps(wanted: Format, given: AnyEncoding) -> bool:
    """Whether an encoding can hold exactly what another one holds.

    wanted: the format that is to hold it.
    given: the encoding that holds it now.
    """
    return isinstance(wanted, Encoding) and isinstance(given, Encoding) and views.holds(wanted, given)


def exact(tensor: ModelTensor, wanted: AnyEncoding) -> Encoding | None:
    """The encoding in which a tensor keeps its codes, or None if it cannot.

    tensor: a tensor of the model.
    wanted: the encoding that is wanted.
    """
    return transcoding.exact(tensor, cast(Encoding, wanted))


def payload_nbytes(encoding: AnyEncoding, tensor: ModelTensor) -> int:
    """Bytes of a tensor's payload: exact for fixed sizes, otherwise the most that it can take.

    encoding: of the payload.
    tensor: what it holds.

    Raises UsageError if the encoding cannot hold the tensor.
    """
    return geometry_of(encoding, tensor).payload_nbytes


def uncoded_nbytes(encoding: AnyEncoding, tensor: ModelTensor) -> int:
    """Bytes of a payload without its entropy coding; of a lossless one, bytes in the source.

    encoding: of the payload.
    tensor: what it holds.
    """
    geometry = geometry_of(encoding, tensor)
    if geometry.encoding.is_lossless:
        return geometry.n_weights * geometry.source_type.nbytes
    plain = replace(geometry.encoding, entropy=Entropy.NONE)
    return replace(geometry, encoding=plain, rows_per_chunk=0).payload_nbytes


def geometry_of(encoding: AnyEncoding, tensor: ModelTensor) -> Geometry:
    """The layout of a tensor's payload.

    encoding: of the payload.
    tensor: what it holds.

    Raises UsageError if the encoding cannot hold the tensor.
    """
    source = tensor.source.require_format() if tensor.source else blocks.FORMATS["f32"]
    source_type = _SOURCE_TYPES.get(source.key)
    if tensor.source is not None and tensor.source.stored is not None and not encoding.is_lossless:
        source_type = stored_of(tensor.source).geometry.source_type
    if source_type is None and encoding.is_lossless:
        raise UsageError(f"{tensor.name} is {source}: lossless is for numbers that are not quantized")
    try:
        known = SourceType.F32 if source_type is None else source_type
        return Geometry(cast(Encoding, encoding), tensor.shape, known)
    except ShapeError as error:
        raise UsageError(f"{tensor.name} as {encoding.name}: {error}") from error
