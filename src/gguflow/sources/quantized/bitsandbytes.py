"""Tensors in 4 bits as bitsandbytes keeps them in safetensors files, and transformers' checkpoints with them.
Rules Q-001 to Q-006.

    NAME                                     the codes, two to a byte, the first in the high nibble: of any
                                             dtype, [bytes, 1] as uint8
    NAME.absmax                              f32[blocks]: the scale of each block of the flattened tensor; or,
                                             nested, u8[blocks]
    NAME.quant_map                           f32[16]: what the codes mean
    NAME.nested_absmax                       f32[super-blocks]: if scales are nested, the meta-scale of each
                                             256 of them
    NAME.nested_quant_map                    f32[256]: what the codes of nested scales mean
    NAME.quant_state.bitsandbytes__nf4       u8[...]: JSON with the rest: quant_type, blocksize, dtype, shape,
                                             nested_blocksize, nested_dtype, nested_offset

Source: `QuantState.as_dict` and `from_dict` in bitsandbytes/functional.py. Such a group is one tensor here,
in the encoding of the parametric family that has the same codes and scales (spec/blocks/parametric.md):
nf4_b64, nf4_b64_dq, fp4_b64, or one with another block size. If the codebook of nested scales differs from
the family's in any bit, the scales are decoded with their own codebook: the same values, in nf4_b64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import FORMATS
from gguflow.errors import FileError, Finding, GguflowError, InvalidError, UnsupportedError
from gguflow.parametric import Codebook, Encoding, Geometry, Nesting, Quantizer, SourceType, codebooks
from gguflow.parametric.stages.stored import Parts, Stored
from gguflow.parametric.views import View, are_continuous, weights_per_item
from gguflow.platform import storage_errors
from gguflow.sources import strict_json
from gguflow.sources.base import SourceTensor, json_path
from gguflow.sources.safetensors import DTYPE_BITS

STATE = ".quant_state.bitsandbytes__"
"""What stands between a tensor's name and the kind of its codes in the name of the tensor with the JSON."""
CODEBOOKS = {"nf4": Codebook.NF4, "fp4": Codebook.FP4}
DTYPES = {"float32": SourceType.F32, "float16": SourceType.F16, "bfloat16": SourceType.BF16}
"""The number types that the weights had, and get again when bitsandbytes decodes them."""
SUFFIXES = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
MAX_STATE_NBYTES = 1 << 16
LARGEST = float(np.finfo(np.float32).max)

_KEYS: dict[str, type] = {"quant_type": str, "blocksize": int, "dtype": str, "shape": list}
_NESTED_KEYS: dict[str, type] = {"nested_blocksize": int, "nested_dtype": str, "nested_offset": float}

Tensors = Mapping[str, SourceTensor]


def is_meant(tensors: Tensors) -> bool:
    """Whether a checkpoint has tensors that bitsandbytes stores in parts.

    tensors: the tensors of the checkpoint by name.
    """
    return any(STATE in name for name in tensors)


def grouped(tensors: Tensors) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint, with each group joined into one tensor.

    Reads the JSON and the codebooks, which are small, and no weights.

    tensors: the tensors of the checkpoint by name.

    Raises a FileError with the broken rule, or StorageError.
    """
    states = [name for name in tensors if STATE in name]
    found = {name.partition(STATE)[0]: _Group(tensors, name).joined() for name in states}
    members = {f"{name}.{suffix}" for name in found for suffix in SUFFIXES} | set(states)
    return {name: found.get(name, tensor) for name, tensor in tensors.items() if name not in members}


class _Group:
    """The parts of one tensor.

    tensors: the tensors of the whole checkpoint.
    state: the name of the tensor with the JSON.
    """

    def __init__(self, tensors: Tensors, state: str) -> None:
        self._tensors = tensors
        self._state = tensors[state]
        self._name, _, self._kind = state.partition(STATE)

    def joined(self) -> SourceTensor:
        """The tensor, after a check that every part is there and has the size that the shape requires."""
        if self._kind not in CODEBOOKS:
            self._refuse(
                UnsupportedError,
                "Q-003",
                "codes of this kind are not known",
                self._kind,
                " or ".join(CODEBOOKS),
            )
        codes = self._part("")
        fields = self._fields()
        is_nested = f"{self._name}.nested_absmax" in self._tensors
        book = self._book_of_scales() if is_nested else ()
        geometry = self._geometry(fields, is_nested and not book)
        scales, meta = self._part(".absmax"), self._part(".nested_absmax") if is_nested else None
        self._check_size(codes, "", -(-geometry.n_weights // weights_per_item(geometry, View.CODES)))
        if not np.array_equal(self._codebook(".quant_map", 16), codebooks.fixed_values(geometry.encoding)):
            self._refuse(
                UnsupportedError, "Q-005", f"{self._name}.quant_map is not the codebook of bitsandbytes"
            )
        offset = 0.0
        n_scales = -(-geometry.n_weights // geometry.encoding.block)
        if meta is None:
            self._check_size(scales, "F32", 4 * n_scales)
        else:
            self._check_size(scales, "U8", n_scales)
            self._check_size(meta, "F32", 4 * -(-n_scales // fields["nested_blocksize"]))
            offset = self._offset(fields["nested_offset"])
        nbytes = sum(_nbytes(part) for part in (codes, scales, meta) if part is not None)
        parts = Parts(codes, scales, meta, offset, book, fields["nested_blocksize"] if book else 0)
        stored = Stored(geometry, nbytes, parts=parts)
        return replace(
            codes, format=FORMATS["f32"], shape=geometry.shape, dtype=geometry.encoding.name, stored=stored
        )

    def _part(self, suffix: str) -> SourceTensor:
        part = self._tensors.get(self._name + suffix)
        if part is None:
            self._refuse(InvalidError, "Q-001", f"{self._name + suffix} is missing")
        return part

    def _fields(self) -> dict[str, Any]:
        """The JSON."""
        if self._state.dtype != "U8" or _nbytes(self._state) > MAX_STATE_NBYTES:
            expected = f"U8, at most {MAX_STATE_NBYTES} bytes"
            self._refuse(
                InvalidError,
                "Q-002",
                "the quantization state is no text",
                [self._state.dtype, _nbytes(self._state)],
                expected,
            )
        fields = strict_json.parse(_content(self._state), self._state.file.path, self._state.offset)
        wanted = _KEYS | (_NESTED_KEYS if f"{self._name}.nested_absmax" in self._tensors else {})
        if not isinstance(fields, dict) or fields.keys() != wanted.keys():
            self._refuse(
                InvalidError,
                "Q-002",
                "the quantization state is no object with these keys",
                fields,
                ", ".join(wanted),
            )
        for key, kind in wanted.items():
            if type(fields[key]) is not kind:
                self._refuse(InvalidError, "Q-002", f"{key} is no {kind.__name__}", fields[key])
        if fields["quant_type"] != self._kind:
            self._refuse(
                InvalidError,
                "Q-002",
                "quant_type is not the kind in the name",
                fields["quant_type"],
                self._kind,
            )
        if not all(type(n) is int and 0 < n < 2**63 for n in fields["shape"]):
            self._refuse(InvalidError, "Q-002", "the shape is no list of counts", fields["shape"])
        return fields

    def _geometry(self, fields: dict[str, Any], is_nested: bool) -> Geometry:
        """The layout of the payload that the parts make up.

        It is one chunk if blocks, or super-blocks, would not continue from chunk to chunk.
        """
        if fields["dtype"] not in DTYPES:
            self._refuse(
                UnsupportedError,
                "Q-003",
                "weights of this dtype are not known",
                fields["dtype"],
                ", ".join(DTYPES),
            )
        nested: dict[str, Any] = {}
        if fields.get("nested_dtype", "float32") != "float32":
            self._refuse(UnsupportedError, "Q-003", "nested scales are float32", fields["nested_dtype"])
        if fields.get("nested_blocksize", 2) < 2:
            self._refuse(
                UnsupportedError, "Q-003", "a super-block has 2 blocks or more", fields["nested_blocksize"]
            )
        if is_nested:
            nested = {"nesting": Nesting.DYNAMIC, "scale_bits": 8, "super_block": fields["nested_blocksize"]}
        try:
            encoding = Encoding(
                Quantizer.CODEBOOK, 4, block=fields["blocksize"], codebook=CODEBOOKS[self._kind], **nested
            )
            geometry = Geometry(encoding, tuple(fields["shape"]), DTYPES[fields["dtype"]])
            if not are_continuous(geometry, View.META if is_nested else View.SCALES):
                geometry = replace(geometry, rows_per_chunk=geometry.rows)
        except GguflowError as error:
            self._refuse(UnsupportedError, "Q-003", str(error))
        return geometry

    def _check_size(self, part: SourceTensor, dtype: str, nbytes: int) -> None:
        """dtype: "" for any."""
        if (dtype and part.dtype != dtype) or _nbytes(part) != nbytes:
            self._refuse(
                InvalidError,
                "Q-004",
                f"{part.name} has another size",
                [part.dtype, _nbytes(part)],
                [dtype or part.dtype, nbytes],
            )

    def _codebook(self, suffix: str, n: int) -> NDArray[np.float32]:
        part = self._part(suffix)
        self._check_size(part, "F32", 4 * n)
        return np.frombuffer(_content(part), "<f4")

    def _book_of_scales(self) -> tuple[float, ...]:
        """The codebook of nested scales if it differs from the family's, else ().

        torch computes it, and its rounding depends on the width of the processor's vectors.
        """
        found = self._codebook(".nested_quant_map", 256)
        if np.array_equal(found, codebooks.dynamic()):
            return ()
        if not np.isfinite(found).all() or (np.diff(found) < 0).any():
            self._refuse(
                UnsupportedError, "Q-005", f"{self._name}.nested_quant_map is not finite and ascending"
            )
        return tuple(found.tolist())

    def _offset(self, offset: float) -> float:
        if not 0 <= offset <= LARGEST:
            self._refuse(
                InvalidError, "Q-006", "nested_offset is the mean of scales: finite and not negative", offset
            )
        return offset

    def _refuse(
        self, error: type[FileError], rule: str, message: str, found: object = None, expected: object = None
    ) -> NoReturn:
        raise error(
            self._state.file.path,
            Finding(rule, message, json_path(self._name), self._state.offset, found, expected),
        )


def _nbytes(tensor: SourceTensor) -> int:
    """Of a tensor of any dtype, as its file has it."""
    return tensor.n_weights * DTYPE_BITS[tensor.dtype] // 8


def _content(tensor: SourceTensor) -> bytes:
    """All bytes of a tensor; the caller knows that it is small."""
    with storage_errors("read", tensor.file.path), open(tensor.file.path, "rb") as file:
        file.seek(tensor.offset)
        return file.read(_nbytes(tensor))
