"""What is fuzzed. A target takes any bytes and returns; whatever it raises is a bug, and so is any disagreement that it finds."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gguflow.container import grammar
from gguflow.container.header import parse
from gguflow.container.rules import DEFAULT_LIMITS
from gguflow.errors import FileError, ShapeError
from gguflow.runtime import Tensor, open_model
from gguflow.runtime.files import MODES
from gguflow.sources import safetensors
from gguflow.validation import judge_gguf

Target = Callable[[bytes], None]


def reader(data: bytes) -> None:
    """The header's parser, and every rule about what it found; blocks too where the layout holds."""
    try:
        header = parse(data, "fuzzed")
    except FileError:
        return
    list(judge_gguf(Path("fuzzed.gguf"), memoryview(data), header, "structure", DEFAULT_LIMITS, 1))


def agreement(data: bytes) -> None:
    """The parser and the grammar, which must say the same of any bytes: malformed or not, and how many keys and tensors there are."""
    complaint = grammar.complaint(data)
    try:
        header = parse(data, "fuzzed")
    except FileError as error:
        if not complaint:
            raise AssertionError("the grammar reads what the parser refuses") from error
        return
    if complaint:
        raise AssertionError(f"the parser reads what the grammar refuses: {complaint}")
    tree = grammar.HEADER.parse(data)
    ours = [(tensor.dims, tensor.type_id, tensor.offset) for tensor in header.tensors]
    if ours != [(tuple(tensor.dims), tensor.type, tensor.offset) for tensor in tree.tensors] or len(header.metadata) != len(tree.metadata):
        raise AssertionError("the parser and the grammar read different trees")


def blocks(data: bytes) -> None:
    """All of the strictest level."""
    try:
        header = parse(data, "fuzzed")
    except FileError:
        return
    list(judge_gguf(Path("fuzzed.gguf"), memoryview(data), header, "strict", DEFAULT_LIMITS, 1))


def safetensors_header(data: bytes) -> None:
    """A safetensors header, through a file in memory."""
    path = _scratch()
    path.write_bytes(data)
    try:
        safetensors.read_header(path)
    except FileError:
        return


def loader(data: bytes) -> None:
    """A model opened both ways, and every tensor of it touched."""
    path = _scratch().with_suffix(".gguf")
    path.write_bytes(data)
    for mode in MODES:
        with contextlib.suppress(FileError), open_model(path, mode=mode) as model:
            repr(model), list(model.metadata.values())
            for tensor in model.values():
                touch(tensor)


def touch(tensor: Tensor) -> None:
    """All that a tensor gives, where it is small: what is refused is refused by name. Shapes may be huge where a dimension is 0."""
    repr(tensor)
    if tensor.size > 1 << 20:
        return
    with contextlib.suppress(FileError, ShapeError):
        tensor.dequantize()
        if tensor.raw.size != tensor.nbytes:
            raise AssertionError(f"{tensor!r} gave {tensor.raw.size} bytes")
        if tensor.ndim > 1 and tensor.shape[0]:
            tensor.dequantize(rows=[-1, 0], dtype="bfloat16")


def _scratch() -> Path:
    """One file for each process, where the system keeps files in memory if it can."""
    directory = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    return Path(directory) / f"gguflow-fuzz-{os.getpid()}.safetensors"


TARGETS: dict[str, Target] = {"reader": reader, "agreement": agreement, "blocks": blocks, "safetensors": safetensors_header, "loader": loader}
SUFFIX = {"safetensors": ".safetensors"}
"""The corpus files that a target begins with, where they are not GGUF files."""
