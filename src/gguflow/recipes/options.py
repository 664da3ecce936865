"""Options of a conversion that change what a recipe chooses, spelled as llama-quantize spells them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gguflow import blocks
from gguflow.arguments import flag, number_in, shown, suggestion, texts
from gguflow.blocks.families import Format, find_encoding
from gguflow.errors import UnknownFormatError, UsageError
from gguflow.recipes.patterns import NamePattern

_MAX_U32 = (1 << 32) - 1
_MAX_KEY_BYTES = (1 << 16) - 1
_MAX_F32 = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


@dataclass(frozen=True)
class Options:
    """The options of llama-quantize, checked when the object is made.

    pure: use the recipe's base format for every tensor.
    tensor_types: "REGEX=FORMAT"; the first that matches part of a tensor's name decides, in either case. The
        expressions are those of `NamePattern`.
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
        for name in ("pure", "leave_output_tensor", "allow_requantize"):
            flag(getattr(self, name), name)
        for name in ("tensor_types", "override_kv"):
            object.__setattr__(self, name, texts(getattr(self, name), name))
        _ = self.patterns, self.output_format, self.token_embedding_format, self.overrides

    @cached_property
    def patterns(self) -> tuple[tuple[NamePattern, Format], ...]:
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

    def named_format(self, name: str) -> tuple[NamePattern, Format] | None:
        """The first of `patterns` that matches part of a tensor's name, and its format."""
        return next(
            ((pattern, block_format) for pattern, block_format in self.patterns if pattern.search(name)), None
        )

    def check_matches(self, names: Sequence[str]) -> None:
        """Raise UsageError for the first pattern that matches none of a model's tensor names."""
        for pattern, _ in self.patterns:
            if not any(pattern.search(name) for name in names):
                raise UsageError(
                    f"--tensor-type: {shown(pattern.pattern)} matches no tensor; "
                    "use the names in the output (--dry-run shows them)"
                )


def _format(name: str) -> Format:
    if not isinstance(name, str):
        raise UnknownFormatError(f'a format is a name, like "q6_k", not {shown(name)}')
    if (encoding := find_encoding(name)) is not None:
        return encoding
    block_format = blocks.by_name(name)
    if not block_format.is_quantized and block_format.key not in ("f32", "f16", "bf16"):
        raise UsageError(f"weights cannot be converted to {block_format}")
    return block_format


def _tensor_type(text: str) -> tuple[NamePattern, Format]:
    pattern, equals, name = text.partition("=")
    if not pattern or not equals or not name:
        raise UsageError(f"--tensor-type must be REGEX=FORMAT (attn_v=q6_k), not {shown(text)}")
    if "[:" in pattern:
        raise UsageError(
            f"--tensor-type {shown(text)}: character classes like [:digit:] are not supported; write [0-9]"
        )
    try:
        return NamePattern(pattern), _format(name)
    except UsageError as error:
        raise type(error)(f"--tensor-type {shown(text)}: {error}") from None


def _override(text: str) -> tuple[str, int | float | bool | str]:
    key, equals, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not key or not equals or not colon or kind not in _READERS:
        hint = suggestion(kind, _READERS) if colon else ""
        raise UsageError(
            "--override-kv must be KEY=TYPE:VALUE with TYPE int, float, bool or str "
            f"(llama.context_length=int:4096), not {shown(text)}{hint}"
        )
    try:
        if len(key.encode()) > _MAX_KEY_BYTES:
            raise ValueError(f"a key has at most {_MAX_KEY_BYTES} bytes")
        return key, _READERS[kind](value)
    except ValueError as error:  # also: text that is not Unicode
        raise UsageError(f"--override-kv {shown(text)}: {error}") from error


def _u32(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not 0 <= int(text) <= _MAX_U32:
        raise ValueError(f"an int must be from 0 to {_MAX_U32}, since it is written as u32")
    return int(text)


def _f32(text: str) -> float:
    value = number_in(text)
    if not abs(value) <= _MAX_F32:
        raise ValueError("a float must be finite and fit F32")
    return value


def _str(text: str) -> str:
    text.encode()
    return text


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("a bool must be true or false")
    return text == "true"


_READERS: dict[str, Callable[[str], int | float | bool | str]] = {
    "int": _u32,
    "float": _f32,
    "bool": _bool,
    "str": _str,
}
