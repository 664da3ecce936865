"""Writes tensors in the form of bitsandbytes in safetensors files, which `sources.bitsandbytes` reads.

If rows are a multiple of 32 weights but not whole blocks, the decoder of bitsandbytes 0.50.2 for processors
with AVX-512 gives other values than its other decoders: the file is correct, that decoder is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguflow.errors import UsageError
from gguflow.exporting.entries import Entry, code_entry, floats, text
from gguflow.models.base import ModelTensor
from gguflow.models.reading import ModelReader
from gguflow.parametric import Codebook, Encoding, Granularity, Quantizer, codebooks
from gguflow.parametric.stages import transcoding
from gguflow.parametric.stages.stored import encoding_of
from gguflow.parametric.views import View
from gguflow.sources.quantized.bitsandbytes import CODEBOOKS, DTYPES, STATE

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024)
"""The block sizes that both bitsandbytes and payloads support."""

KINDS = {codebook: kind for kind, codebook in CODEBOOKS.items()}
TORCH_DTYPES = {source_type.name.lower(): name for name, source_type in DTYPES.items()}


def is_meant(tensor: ModelTensor) -> bool:
    """Whether a tensor is in an encoding that bitsandbytes knows."""
    encodings = {encoding_of(source) for source in tensor.sources}
    return all(encoding is not None and _is_known(encoding) for encoding in encodings) and bool(encodings)


def entries(tensor: ModelTensor, reader: ModelReader, dtype: str) -> Iterator[Entry]:
    """The parts of a tensor that `is_meant`. Nested scales stay so where all super-blocks stay whole, else
    they are made whole: the same values.

    tensor: the tensor.
    reader: of its source.
    dtype: type of the weights when bitsandbytes decodes them.

    Raises UsageError if blocks do not fit its rows.
    """
    encoding = transcoding.encoding_of(tensor)
    if encoding is None:
        why = (
            "its rows must be reordered"
            if tensor.view is not None
            else "its blocks are cut by chunks or matrices"
        )
        raise UsageError(
            f"{tensor.name}: rows of {tensor.shape[-1]} weights are not whole blocks, and {why}; "
            "it cannot be exported to bitsandbytes"
        )
    kind = KINDS[encoding.codebook]
    codes = transcoding.part(tensor, View.CODES).tensor
    state = {
        "quant_type": kind,
        "blocksize": encoding.block,
        "dtype": TORCH_DTYPES[dtype],
        "shape": list(tensor.shape),
    }
    yield code_entry(tensor.name, codes, "U8", (codes.n_weights, 1))
    if transcoding.is_nested_whole(tensor):
        yield _flat(tensor, "absmax", View.SCALE_CODES, "U8")
        yield _flat(tensor, "nested_absmax", View.META, "F32")
        yield floats(f"{tensor.name}.nested_quant_map", codebooks.dynamic())
        offset = float(transcoding.offset(reader, tensor))
        state |= {
            "nested_blocksize": encoding.super_block,
            "nested_dtype": "float32",
            "nested_offset": offset,
        }
    else:
        yield _flat(tensor, "absmax", View.SCALES, "F32")
    yield floats(f"{tensor.name}.quant_map", codebooks.fixed_values(encoding))
    yield text(f"{tensor.name}{STATE}{kind}", state)


def _flat(tensor: ModelTensor, suffix: str, view: View, dtype: str) -> Entry:
    part = transcoding.part(tensor, view).tensor
    return code_entry(f"{tensor.name}.{suffix}", part, dtype, (part.n_weights,))


def _is_known(e: Encoding) -> bool:
    is_4_bit = (
        e.quantizer is Quantizer.CODEBOOK
        and e.codebook in (Codebook.NF4, Codebook.FP4)
        and not e.has_outliers
    )
    return is_4_bit and e.granularity is Granularity.BLOCK and e.block in BLOCK_SIZES
