"""Payloads of any family in GGUF files: the family of a payload, and the tensor that it decodes to."""

from __future__ import annotations

from types import ModuleType

from gguflow.blocks.families import Encoding, family_at, part
from gguflow.sources.base import SourceTensor


def decoded(tensor: SourceTensor, content: memoryview) -> SourceTensor:
    """The tensor that a payload decodes to.

    tensor: the I8 tensor that holds it.
    content: the bytes of its file.

    Raises a FileError with the rule that the payload breaks.
    """
    found: SourceTensor = _reader_of(content, tensor.offset).decoded(tensor, content)
    return found


def form_at(content: memoryview, offset: int, file: str = "") -> tuple[Encoding, tuple[int, ...]]:
    """The encoding and the shape of the payload at an offset.

    content: the bytes of its file.
    offset: the position of the payload in the content, in bytes.
    file: the file's name, for messages.

    Raises a FileError with the rule that the payload breaks.
    """
    found: tuple[Encoding, tuple[int, ...]] = _reader_of(content, offset).form_at(content, offset, file)
    return found


def _reader_of(content: memoryview, offset: int) -> ModuleType:
    """The module that reads payloads with these first bytes."""
    return part(family_at(bytes(content[offset : offset + 16])).name, "stages.payload_source")
