"""What is fuzzed. A target takes any bytes and returns; whatever it raises is a bug, and so is any
disagreement that it finds.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gguflow.container import grammar
from gguflow.container.header import parse
from gguflow.container.limits import DEFAULT_LIMITS
from gguflow.container.mapped_file import IO_MODES
from gguflow.container.payload_keys import payload_names
from gguflow.errors import FileError, InvalidError, LimitError, NonFiniteError, ShapeError, UsageError
from gguflow.inference.generation import Generation
from gguflow.inference.sampling import Sampler
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from gguflow.parametric import Payload, chunk_digest, descriptor, judging
from gguflow.parametric.geometry import INDEX_ENTRY_BYTES
from gguflow.runtime import Tensor, open_model
from gguflow.sources import TensorReader, open_checkpoint
from gguflow.validation import judge_gguf
from testing.fuzzing.models import PROMPT, models

Target = Callable[[bytes], None]


def reader(data: bytes) -> None:
    """The header's parser, and every rule about what it found; blocks too where the layout holds."""
    try:
        header = parse(data, "fuzzed")
    except FileError:
        return
    list(judge_gguf(Path("fuzzed.gguf"), memoryview(data), header, "structure", DEFAULT_LIMITS, 1))


def agreement(data: bytes) -> None:
    """The parser and the grammar, which must say the same of any bytes: malformed or not, and how many keys
    and tensors there are. The grammar knows no limits.
    """
    complaint = grammar.complaint(data)
    try:
        header = parse(data, "fuzzed")
    except (LimitError, InvalidError):
        return
    except FileError as error:
        if not complaint:
            raise AssertionError("the grammar reads what the parser refuses") from error
        return
    if complaint:
        raise AssertionError(f"the parser reads what the grammar refuses: {complaint}")
    tree = grammar.HEADER.parse(data)
    ours = [(tensor.dims, tensor.type_id, tensor.offset) for tensor in header.tensors]
    if ours != [(tuple(tensor.dims), tensor.type, tensor.offset) for tensor in tree.tensors] or len(
        header.metadata
    ) != len(tree.metadata):
        raise AssertionError("the parser and the grammar read different trees")


def blocks(data: bytes) -> None:
    """All of the strictest level."""
    try:
        header = parse(data, "fuzzed")
    except FileError:
        return
    list(judge_gguf(Path("fuzzed.gguf"), memoryview(data), header, "strict", DEFAULT_LIMITS, 1))


def safetensors_file(data: bytes) -> None:
    """A safetensors file in memory: its header, and what is in parts decoded."""
    path = _scratch()
    path.write_bytes(data)
    try:
        checkpoint = open_checkpoint(path)
        with TensorReader(checkpoint, io="pread") as reader:
            for tensor in checkpoint.tensors.values():
                if tensor.is_in_parts and tensor.n_weights < 1 << 20:
                    reader.read(tensor, 0, tensor.n_weights)
    except FileError:
        return


def loader(data: bytes) -> None:
    """A model opened both ways, and every tensor of it touched."""
    path = _scratch().with_suffix(".gguf")
    path.write_bytes(data)
    for io in IO_MODES:
        with contextlib.suppress(FileError), open_model(path, io=io) as model:
            repr(model), list(model.metadata.values())
            for tensor in model.values():
                touch(tensor)


def touch(tensor: Tensor) -> None:
    """All that a tensor gives, where it is small: what is refused is refused by name. Shapes may be huge
    where a dimension is 0.
    """
    repr(tensor)
    if tensor.size > 1 << 20:
        return
    with contextlib.suppress(FileError, ShapeError):
        tensor.dequantize()
        if tensor.raw.size != tensor.nbytes:
            raise AssertionError(f"{tensor!r} gave {tensor.raw.size} bytes")
        if tensor.ndim > 1 and tensor.shape[0]:
            tensor.dequantize(rows=[-1, 0], dtype="bfloat16")


def running(data: bytes) -> None:
    """A model's tokenizer and a few tokens of it, as `gguflow run` does it; the file must hold, or be refused
    for a reason that has a rule.
    """
    path = _scratch().with_suffix(".gguf")
    path.write_bytes(data)
    with (
        contextlib.suppress(FileError, NonFiniteError, UsageError),
        np.errstate(all="ignore"),
        open_model(path) as model,
    ):
        tokenizer, transformer = Tokenizer(model.metadata, model.path), Transformer(model)
        generation = Generation(transformer, tokenizer, PROMPT, 3, Sampler(), "f16")
        list(generation)


def payload(data: bytes) -> None:
    """A payload of the parametric family, in memory: as it is, and with its digests made right, without which
    little gets past them.
    """
    for content in (data, resealed(data)):
        decode(content)


def decode(data: bytes) -> None:
    """A payload opened, judged, and decoded where it is small."""
    try:
        read = Payload(data)
        if read.geometry.n_weights > 1 << 20:
            return
        list(judging.check(read))
        read.decode_rows(0, read.geometry.rows)
        read.decode_rows(read.geometry.rows // 2, read.geometry.rows // 2 + 1)
    except FileError:
        return


def resealed(data: bytes) -> bytes:
    """The payload with the digests of its prefix and of its chunks made anew, where the descriptor says where
    they are.
    """
    try:
        geometry = descriptor.parse(data).geometry
    except FileError:
        return data
    if geometry.prefix_nbytes > len(data):
        return data
    content = bytearray(data)
    for at in range(geometry.index_offset, geometry.index_offset + geometry.index_nbytes, INDEX_ENTRY_BYTES):
        offset, nbytes = struct.unpack_from("<2Q", content, at)
        content[at + 16 : at + 32] = chunk_digest(
            np.frombuffer(content[offset : offset + min(nbytes, len(content))], np.uint8)
        )
    content[: geometry.prefix_nbytes] = descriptor.sealed(bytes(content[: geometry.prefix_nbytes]))
    return bytes(content)


def payloads_in(content: bytes) -> list[bytes]:
    """The payloads in a file of the corpus, good or broken."""
    with contextlib.suppress(FileError):
        header = parse(content, "seed")
        if payload_names(header.metadata):
            return [
                content[header.data_offset + tensor.offset :][: tensor.n_weights] for tensor in header.tensors
            ]
    return []


def _scratch() -> Path:
    """One file for each process, where the system keeps files in memory if it can."""
    directory = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    return Path(directory) / f"gguflow-fuzz-{os.getpid()}.safetensors"


TARGETS: dict[str, Target] = {
    "reader": reader,
    "agreement": agreement,
    "blocks": blocks,
    "safetensors": safetensors_file,
    "loader": loader,
    "payload": payload,
    "running": running,
}


def seeds(target: str, corpus: Path) -> list[bytes]:
    """What the mutations of a target begin with: the small files of the corpus that it understands, or the
    payloads in them; or models that run.
    """
    if target == "running":
        return models()
    paths = sorted(corpus.rglob("*.safetensors" if target == "safetensors" else "*.gguf"))
    files = [path.read_bytes() for path in paths if path.stat().st_size < 1 << 14]
    return (
        [payload for content in files for payload in payloads_in(content)] if target == "payload" else files
    )
