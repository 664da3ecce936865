"""Options of a conversion that change what a recipe chooses, spelled as llama-quantize spells them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gguflow import blocks
from gguflow.blocks import BlockFormat
from gguflow.errors import UsageError
from gguflow.parametric import names as presets
from gguflow.parametric.encoding import Encoding

Format = BlockFormat | Encoding
"""A format for a tensor: a block format of ggml, or an encoding of the parametric family."""

_MAX_U32 = (1 << 32) - 1
_MAX_F32 = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


@dataclass(frozen=True)
class Options:
    """The options of llama-quantize, checked when the object is made.

    pure: use the recipe's base format for every tensor.
    tensor_types: "REGEX=FORMAT"; the first that matches part of a tensor's name decides, in either case.
    output_tensor_type: format of output.weight.
    token_embedding_type: format of the token embeddings.
    leave_output_tensor: do not quantize output.weight.
    allow_requantize: quantize tensors even if they are already quantized.
    override_kv: "KEY=TYPE:VALUE" with TYPE int (written as u32), float (f32), bool or str.

    Raises UsageError, and UnknownFormatError for a format's name.
    """

    pure: bool = False
    tensor_types: tuple[str, ...] = ()
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    leave_output_tensor: bool = False
    allow_requantize: bool = False
    override_kv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self.patterns, self.output_format, self.token_embedding_format, self.overrides

    @cached_property
    def patterns(self) -> tuple[tuple[re.Pattern[str], Format], ...]:
        return tuple(_tensor_type(text) for text in self.tensor_types)

    @cached_property
    def output_format(self) -> Format | None:
        return _format(self.output_tensor_type) if self.output_tensor_type is not None else None

    @cached_property
    def token_embedding_format(self) -> Format | None:
        return _format(self.token_embedding_type) if self.token_embedding_type is not None else None

    @cached_property
    def overrides(self) -> dict[str, int | float | bool | str]:
        """override_kv by key; the last one counts."""
        return dict(_override(text) for text in self.override_kv)

    def named_format(self, name: str) -> tuple[re.Pattern[str], Format] | None:
        """The first of `patterns` that matches part of a tensor's name, and its format."""
        return next(
            ((pattern, block_format) for pattern, block_format in self.patterns if pattern.search(name)), None
        )

    def check_matches(self, names: Sequence[str]) -> None:
        """Raise UsageError for the first pattern that matches none of a model's tensor names."""
        for pattern, _ in self.patterns:
            if not any(pattern.search(name) for name in names):
                raise UsageError(
                    f"--tensor-type: {pattern.pattern!r} matches no tensor; "
                    "use the names in the output (--dry-run shows them)"
                )


def _format(name: str) -> Format:
    if presets.is_name(name):
        return presets.find(name)
    block_format = blocks.by_name(name)
    if not block_format.is_quantized and block_format.key not in ("f32", "f16", "bf16"):
        raise UsageError(f"weights cannot be converted to {block_format}")
    return block_format


def _tensor_type(text: str) -> tuple[re.Pattern[str], Format]:
    pattern, equals, name = text.partition("=")
    if not pattern or not equals or not name:
        raise UsageError(f"--tensor-type must be REGEX=FORMAT (attn_v=q6_k), not {text!r}")
    if "[:" in pattern:
        raise UsageError(
            f"--tensor-type {text!r}: character classes like [:digit:] are not supported; write [0-9]"
        )
    try:
        return re.compile(pattern, re.IGNORECASE | re.ASCII), _format(name)
    except re.error as error:
        raise UsageError(f"--tensor-type {text!r}: {error} in the regular expression") from error


def _override(text: str) -> tuple[str, int | float | bool | str]:
    key, equals, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not key or not equals or not colon or kind not in _READERS:
        raise UsageError(
            "--override-kv must be KEY=TYPE:VALUE with TYPE int, float, bool or str "
            f"(llama.context_length=int:4096), not {text!r}"
        )
    try:
        return key, _READERS[kind](value)
    except ValueError as error:
        raise UsageError(f"--override-kv {text!r}: {error}") from error


def _u32(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not 0 <= int(text) <= _MAX_U32:
        raise ValueError(f"an int must be from 0 to {_MAX_U32}, since it is written as u32")
    return int(text)


def _f32(text: str) -> float:
    value = float(text)
    if not abs(value) <= _MAX_F32:
        raise ValueError("a float must be finite and fit F32")
    return value


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("a bool must be true or false")
    return text == "true"


_READERS: dict[str, Callable[[str], int | float | bool | str]] = {
    "int": _u32,
    "float": _f32,
    "bool": _bool,
    "str": str,
}
