"""What is fuzzed. A target takes any bytes and returns; whatever it raises is a bug, and so is any
disagreement that it finds.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gguflow.container import grammar
from gguflow.container.header import parse
from gguflow.container.limits import DEFAULT_LIMITS, Limits
from gguflow.container.mapped_file import IO_MODES
from gguflow.container.payload_keys import payload_names
from gguflow.conversion import imatrix
from gguflow.conversion.journal import Journal
from gguflow.errors import FileError, InvalidError, LimitError, NonFiniteError, ShapeError, UsageError
from gguflow.inference.generation import Generation
from gguflow.inference.sampling import Sampler
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from gguflow.parametric import Payload, chunk_digest, descriptor, judging
from gguflow.parametric.geometry import INDEX_ENTRY_BYTES
from gguflow.runtime import Tensor, open_model
from gguflow.sources import TensorReader, open_checkpoint, safetensors, strict_json
from gguflow.validation import judge_gguf
from testing.fuzzing.models import PROMPT, models
from testing.fuzzing.small_files import BINDING, OWN_SEEDS

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


def limits(data: bytes) -> None:
    """The parser with small limits: what it reads, it reads as without them; what it refuses, the same
    parser refuses too, or a limit is the reason.
    """
    small = Limits(header_bytes=600, string_bytes=64, n_elements=16, n_keys=6, n_tensors=3)
    try:
        header = parse(data, "fuzzed", small)
    except LimitError:
        return
    except FileError as error:
        try:
            parse(data, "fuzzed")
        except FileError as without:
            if without.finding == error.finding:
                return
        raise AssertionError("a small limit changes what is malformed") from error
    whole = parse(data, "fuzzed")
    if (header.tensors, header.key_positions, header.end) != (whole.tensors, whole.key_positions, whole.end):
        raise AssertionError("limits change what is read")
    if header.end > small.header_bytes or len(header.metadata) > small.n_keys:
        raise AssertionError("more is read than a limit allows")


def json_document(data: bytes) -> None:
    """A document, which must be what Python's own parser makes of it."""
    for allow_infinity in (False, True):
        try:
            document = strict_json.parse(data, Path("fuzzed.json"), allow_infinity=allow_infinity)
        except FileError:
            continue
        if repr(document) != repr(json.loads(data, parse_int=_integer)):
            raise AssertionError("another document than that of Python's parser")
        json.dumps(document, ensure_ascii=False).encode()


def _integer(digits: str) -> float:
    return -0.0 if digits == "-0" else int(digits)


def safetensors_header(data: bytes) -> None:
    """The header of a safetensors file; and with its length made right, without which little gets past it."""
    length = max(data.find(b"}}") + 2 - 8, 0)
    path = _scratch()
    for content in (data, length.to_bytes(8, "little") + data[8:]):
        path.write_bytes(content)
        with contextlib.suppress(FileError):
            file, tensors, _ = safetensors.read_header(path)
            if sum(tensor.nbytes for tensor in tensors.values()) > file.nbytes:
                raise AssertionError("tensors of more bytes than the file has")


def importance(data: bytes) -> None:
    """An importance matrix, in either format, and what a conversion asks of it."""
    path = _scratch().with_suffix(".imatrix")
    path.write_bytes(data)
    with contextlib.suppress(FileError):
        matrix = imatrix.read(path)
        matrix.provenance()
        for name, entry in matrix.entries.items():
            matrix.find(name, (1, entry.sums.size))
            values = entry.of_matrix(0, entry.sums.size)
            if not (values >= 0).all():
                raise AssertionError(f"the importance of {name!r} is not a number")


def journal(data: bytes) -> None:
    """What a journal claims: numbers that are no larger than those that are written."""
    path = _scratch().with_suffix(".journal")
    path.write_bytes(data)
    try:
        claims = Journal(path, BINDING).claims()
    except UsageError:
        return
    for numbers in (*claims.leaves, *claims.chunks, *((nbytes,) for _, nbytes in claims.chunks.values())):
        if not all(0 <= number < 10**20 for number in numbers):
            raise AssertionError("a number that no journal has")


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
    "limits": limits,
    "json": json_document,
    "safetensors-header": safetensors_header,
    "imatrix-file": importance,
    "journal-file": journal,
    "blocks": blocks,
    "safetensors": safetensors_file,
    "loader": loader,
    "payload": payload,
    "running": running,
}


def seeds(target: str, corpus: Path) -> list[bytes]:
    """What the mutations of a target begin with: the small files of the corpus that it understands, or the
    payloads in them; files of its own format, all valid; or models that run.
    """
    if target == "running":
        return models()
    if target in OWN_SEEDS:
        return OWN_SEEDS[target]()
    paths = sorted(corpus.rglob("*.safetensors" if target.startswith("safetensors") else "*.gguf"))
    files = [path.read_bytes() for path in paths if path.stat().st_size < 1 << 14]
    if target == "payload":
        return [payload for content in files for payload in payloads_in(content)]
    if target in ("limits", "safetensors-header"):  # half of what is mutated is valid
        valid = [path.read_bytes() for path in paths if path.parent.name == "valid"]
        valid = [content for content in valid if len(content) < 1 << 14]
        return files + valid * (max(len(files) // len(valid), 1))
    return files
