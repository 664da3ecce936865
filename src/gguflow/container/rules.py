"""What a well-formed header may say: pure rules over the parsed header, each with its id. The spec's text of each is in spec/container.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gguflow.container.header import Header, align
from gguflow.container.metadata import ValueType
from gguflow.errors import Finding

MAX_NAME_BYTES = 63  # ggml keeps names in char[64]
MAX_DIMS = 4
MAX_KEY_BYTES = 65535
MAX_ALIGNMENT = 1 << 20
MAX_WEIGHTS = (1 << 63) - 1
MAX_STRING_BYTES = 1 << 30

BlockSizes = Callable[[int], tuple[int, int] | None]
"""type id -> (block_size, type_size), or None for a type that is not known."""


def judge(header: Header, block_sizes: BlockSizes, file_size: int | None) -> Iterator[Finding]:
    """Every broken rule, in file order. file_size: None where the file is still to be written."""
    yield from _judge_metadata(header)
    yield from _judge_tensors(header, block_sizes, file_size)


def _judge_metadata(header: Header) -> Iterator[Finding]:
    for key, value in header.metadata.items():
        path, at = f"$.metadata[{key!r}]", header.key_positions.get(key)
        nbytes = len(key.encode("utf-8", "surrogateescape"))
        if not 0 < nbytes <= MAX_KEY_BYTES:
            yield Finding("C-009", "a metadata key of unusable length", path, at, nbytes, f"1 to {MAX_KEY_BYTES} bytes")
        elif not _is_text(key):
            yield Finding("C-022", "a metadata key that is not UTF-8", path, at)
        if value.type is ValueType.STRING:
            if not _is_text(value.value):
                yield Finding("C-022", "a string that is not UTF-8", path, at, severity="warning")
            if len(value.value) > MAX_STRING_BYTES:
                yield Finding("C-023", "a string over the limit", path, at, len(value.value), f"{MAX_STRING_BYTES} bytes or fewer")
    alignment = header.metadata.get("general.alignment")
    if alignment is not None:
        path, at = "$.metadata['general.alignment']", header.key_positions.get("general.alignment")
        if alignment.type is not ValueType.UINT32:
            yield Finding("C-011", "general.alignment has the wrong type", path, at, alignment.type.name, "UINT32")
        elif not 0 < alignment.value <= MAX_ALIGNMENT or alignment.value & (alignment.value - 1):
            yield Finding("C-011", "an unusable alignment", path, at, alignment.value, f"a power of two up to {MAX_ALIGNMENT}")


def _judge_tensors(header: Header, block_sizes: BlockSizes, file_size: int | None) -> Iterator[Finding]:
    seen: set[str] = set()
    expected_offset: int | None = 0
    end = 0
    for i, tensor in enumerate(header.tensors):
        path, at = f"$.tensors[{i}]", tensor.position or None
        nbytes = len(tensor.name.encode("utf-8", "surrogateescape"))
        if nbytes > MAX_NAME_BYTES:
            message = f"tensor name {tensor.name!r} is too long for ggml"
            yield Finding("C-012", message, path + ".name", at, f"{nbytes} bytes", f"{MAX_NAME_BYTES} or fewer")
        if not _is_text(tensor.name):
            yield Finding("C-022", "a tensor name that is not UTF-8", path + ".name", at)
        if tensor.name in seen:
            yield Finding("C-013", f"duplicate tensor name {tensor.name!r}", path + ".name", at)
        seen.add(tensor.name)
        if len(tensor.dims) > MAX_DIMS:
            yield Finding("C-014", "too many dimensions", path + ".n_dims", at, len(tensor.dims), f"{MAX_DIMS} or fewer")
        if tensor.n_weights > MAX_WEIGHTS:
            yield Finding("C-015", "more weights than can be addressed", path + ".dims", at, list(tensor.dims))
            expected_offset = None
            continue
        sizes = block_sizes(tensor.type_id)
        if sizes is None:
            yield Finding("C-016", f"tensor {tensor.name!r} has an unknown type", path + ".type", at, tensor.type_id)
            expected_offset = None
            continue
        block_size, type_size = sizes
        row = tensor.dims[0] if tensor.dims else 1
        if row % block_size:
            yield Finding("C-017", "rows that do not divide into blocks", path + ".dims", at, row, f"a multiple of {block_size}")
            expected_offset = None
            continue
        size = tensor.n_weights // block_size * type_size
        if tensor.offset % header.alignment:
            yield Finding("C-024", "an offset that is not aligned", path + ".offset", at, tensor.offset, f"a multiple of {header.alignment}")
        if expected_offset is not None and tensor.offset != expected_offset:
            yield Finding("C-018", "an offset that leaves a hole or overlaps", path + ".offset", at, tensor.offset, expected_offset)
        if file_size is not None and header.data_offset + tensor.offset + size > file_size:
            needed = header.data_offset + tensor.offset + size
            yield Finding("C-019", f"truncated: tensor {tensor.name!r} needs {needed} bytes of file, it has {file_size}", path, at)
        expected_offset = align(tensor.offset + size, header.alignment)
        end = max(end, expected_offset)
    if file_size is not None and expected_offset is not None and header.tensors and file_size > header.data_offset + end:
        total = header.data_offset + end
        yield Finding("C-020", "bytes after the last tensor", "$", total, f"{file_size - total} bytes", "the end of the file")


def _is_text(text: str) -> bool:
    """False where a byte that is not UTF-8 came through as a lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
