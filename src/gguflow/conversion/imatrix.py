"""Importance matrices as llama-imatrix writes them: how much each column of each weight matrix matters,
measured on text.

Two formats hold the same: a GGUF file with the sums of squared activations and how many there were, and the
older .dat with their means. Both are read as hostile: every count is held against the bytes that remain, and
no value is used before it is proved to be a finite number, not negative. The rules A-001 to A-018 are in
spec/imatrix.md. The values are views of the mapped file, averaged when they are asked for, so that the
experts of a large model cost no memory. Layout and arithmetic: common/imatrix-loader.cpp and
tools/quantize/quantize.cpp in llama.cpp.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from gguflow import blocks
from gguflow.arguments import shown
from gguflow.arrays import MOST_IMPORTANCE
from gguflow.container.header import MAGIC, Header, TensorInfo, parse
from gguflow.container.metadata import Metadata, ValueType, string, u32
from gguflow.container.reader import map_file
from gguflow.container.rules import judge, raise_first
from gguflow.container.sniffing import looks_like
from gguflow.container.strings import quoted
from gguflow.errors import Finding, InvalidError, LimitError, MalformedError, UsageError, printable

Floats = NDArray[np.float32]

_I32 = struct.Struct("<i")
_SMALLEST_ENTRY = 4 + 4 + 4 + 4  # the length of an empty name, calls, the number of values, one value
_F32_ID = 0
MAX_ENTRIES = 1 << 16
"""More than any model has tensors; an entry takes more memory than bytes in the file."""
_MAX_DATASETS = 1 << 10
"""Names of datasets that are kept; one is recorded."""
_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_PROVENANCE_BYTES = 127
"""llama-quantize keeps no more of a string that it writes for itself."""


@dataclass(frozen=True)
class Importance:
    """The importance of the columns of one tensor, matrix after matrix.

    sums: float32[n_matrices * row], not negative.
    counts: float32[k], k a divisor of the number of sums: each count divides an equal share of consecutive
        sums. If a count is 0, nothing was seen, and its columns are all equally important.
    """

    sums: Floats
    counts: Floats

    def of_matrix(self, matrix: int, row: int) -> Floats:
        """The importance of each column of one matrix for the error: float32[row].

        matrix: number of the matrix, from 0.
        row: weights of a row.
        """
        first = matrix * row
        counts = self.counts[np.arange(first, first + row) // (self.sums.size // self.counts.size)]
        return np.divide(
            self.sums[first : first + row], counts, out=np.ones(row, np.float32), where=counts > 0
        )


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix.

    path: of the file, as the user named it.
    entries: the importance by tensor name.
    datasets: names of the texts on which it was measured.
    n_chunks: number of chunks of text that were measured.
    digest: SHA-256 in hex, of the file, or of its digest and the names if only some entries are kept.
    """

    path: str
    entries: Mapping[str, Importance]
    datasets: tuple[str, ...]
    n_chunks: int
    digest: str = ""

    def find(self, name: str, shape: tuple[int, ...]) -> Importance | None:
        """The importance for a tensor, or None if there is none.

        An entry for token embeddings that has another size is ignored, as these are not used in a matrix
        product.

        name: of the tensor.
        shape: in NumPy order.

        Raises InvalidError (A-014) if the entry is for a tensor of another size.
        """
        importance = self.entries.get(name)
        expected = shape[-1] * math.prod(shape[:-2])
        if importance is None or importance.sums.size == expected:
            return importance
        if name in ("token_embd.weight", "per_layer_token_embd.weight"):
            return None
        message = (
            f"the entry for {printable(name)} is for a tensor of another size: an imatrix of another model"
        )
        raise InvalidError(
            self.path,
            Finding("A-014", message, f"$.entries[{quoted(name)}]", None, importance.sums.size, expected),
        )

    def check_usable(self, name: str, importance: Importance, row: int, *, zeros: bool = False) -> None:
        """Check that the entry for a tensor neither erases weights nor makes sums overflow.

        name: of the tensor.
        importance: what `find` returned for it.
        row: weights of a row.
        zeros: whether a matrix may have no importance at all.

        Raises InvalidError (A-016, A-017).
        """
        sums = importance.sums.reshape(-1, row)
        for matrix in () if zeros else np.flatnonzero(~sums.any(axis=1)).tolist():
            if not importance.of_matrix(matrix, row).any():
                message = (
                    f"the entry for {printable(name)} is zero in every column of matrix {matrix}: nothing of "
                    "it would count, and its weights would be lost; leave the entry out, or measure "
                    "the imatrix again"
                )
                raise InvalidError(
                    self.path, Finding("A-016", message, f"$.entries[{quoted(name)}][{matrix}]")
                )
        if float(sums.max(initial=0)) <= MOST_IMPORTANCE:
            return
        for matrix in np.flatnonzero(sums.max(axis=1) > MOST_IMPORTANCE).tolist():
            columns = importance.of_matrix(matrix, row)
            if float(columns.max()) > MOST_IMPORTANCE:
                column = int(columns.argmax())
                message = (
                    f"the entry for {printable(name)} is too large in column {column} of matrix {matrix}: "
                    "sums over a row would overflow; leave the entry out, or measure the imatrix again"
                )
                where = f"$.entries[{quoted(name)}][{matrix}, {column}]"
                found = float(columns[column])
                raise InvalidError(
                    self.path, Finding("A-017", message, where, None, found, f"{MOST_IMPORTANCE:g} or less")
                )

    def only(self, included: Sequence[str] = (), excluded: Sequence[str] = ()) -> Imatrix:
        """The imatrix with the entries that the texts select by their names, as in llama-quantize.

        included: only entries with one of these texts in their names; empty for all entries.
        excluded: only entries with none of these texts in their names.

        Raises UsageError if both are given, if a text is in no name, or if no entry is left.
        """
        if included and excluded:
            raise UsageError("--include-weights and --exclude-weights cannot be used together")
        for text in (*included, *excluded):
            if not any(text in name for name in self.entries):
                option = "--include-weights" if included else "--exclude-weights"
                raise UsageError(f"{option}: {shown(text)} is in no name of {self.path}")
        kept = {
            name: importance
            for name, importance in self.entries.items()
            if (not included or any(text in name for text in included))
            and not any(text in name for text in excluded)
        }
        if not kept:
            raise UsageError("--exclude-weights leaves nothing of the imatrix; omit --imatrix")
        if len(kept) == len(self.entries):
            return self
        names = "".join(f"{len(name)}:{name}" for name in kept)
        digest = hashlib.sha256(f"{self.digest} {names}".encode("utf-8", "surrogateescape")).hexdigest()
        return replace(self, entries=kept, digest=digest)

    def check_is_for(self, names: set[str]) -> None:
        """Check that at least one entry is for a tensor of the model.

        names: of the output's tensors.

        Raises InvalidError (A-015).
        """
        if not names & self.entries.keys():
            message = "no entry is for a tensor of this model: an imatrix of another model"
            raise InvalidError(
                self.path,
                Finding(
                    "A-015",
                    message,
                    "$.entries",
                    None,
                    next(iter(self.entries)),
                    "names of the output's tensors",
                ),
            )

    def provenance(self) -> Metadata:
        """The metadata keys with which llama-quantize records an imatrix."""
        keys: Metadata = {"quantize.imatrix.file": string(_shortened(self.path))}
        if self.datasets:
            keys["quantize.imatrix.dataset"] = string(_shortened(self.datasets[0]))
        keys["quantize.imatrix.entries_count"] = u32(len(self.entries))
        if self.n_chunks > 0:
            keys["quantize.imatrix.chunks_count"] = u32(self.n_chunks)
        return keys


def read(path: str | Path) -> Imatrix:
    """Read an imatrix in either format.

    path: of the file.

    Raises MalformedError, InvalidError and LimitError with the rule that the file breaks (rules of GGUF files
    included), StorageError.
    """
    return parse_imatrix(str(path), map_file(path))


def parse_imatrix(path: str, content: memoryview) -> Imatrix:
    """Parse an imatrix in either format.

    path: of the file, as the user named it.
    content: the bytes of the whole file.

    Raises what `read` raises for the content of a file.
    """
    imatrix = _read_gguf(path, content) if bytes(content[:4]) == MAGIC else _read_dat(path, content)
    return replace(imatrix, digest=hashlib.sha256(content).hexdigest())


def _shortened(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:_MAX_PROVENANCE_BYTES].decode("utf-8", "ignore")


def _read_gguf(path: str, content: memoryview) -> Imatrix:
    header = parse(content, path)
    raise_first(path, judge(header, blocks.block_sizes, len(content)))
    datasets, n_chunks = _gguf_metadata(path, header)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    named = [
        name.removesuffix(suffix) for suffix in (_SUMS, _COUNTS) for name in tensors if name.endswith(suffix)
    ]
    entries = {}
    _check_number(path, len(set(named)))
    for name in sorted(set(named)):
        sums, counts = (_values(path, header, content, tensors, name + suffix) for suffix in (_SUMS, _COUNTS))
        if counts.size == 0 or sums.size == 0 or sums.size % counts.size:
            _fail(
                path,
                "A-010",
                f"{quoted(name)}: the sums do not divide among the counts",
                name,
                sums.size,
                f"a multiple of {counts.size}",
            )
        whole = np.floor(counts.astype(np.float64) + 0.5).astype(
            np.float32
        )  # C's lround, of numbers that are not negative
        entries[name] = Importance(sums, whole)
    if not entries:
        _fail(path, "A-007", "an imatrix without entries", "")
    return Imatrix(path, entries, datasets, n_chunks)


def _gguf_metadata(path: str, header: Header) -> tuple[tuple[str, ...], int]:
    """The datasets and the number of chunks; all three keys of an imatrix must be there."""
    for key, kind in (
        ("datasets", ValueType.ARRAY),
        ("chunk_count", ValueType.UINT32),
        ("chunk_size", ValueType.UINT32),
    ):
        value = header.metadata.get(f"imatrix.{key}")
        if (
            value is None
            or value.type is not kind
            or (kind is ValueType.ARRAY and value.element_type is not ValueType.STRING)
        ):
            found = "no such key" if value is None else value.type.name.lower()
            message = f"imatrix.{key} is needed: this is no imatrix"
            expected = "an array of strings" if kind is ValueType.ARRAY else "uint32"
            raise InvalidError(
                path, Finding("A-008", message, f"$.metadata['imatrix.{key}']", None, found, expected)
            )
    datasets = itertools.islice(header.metadata["imatrix.datasets"].value, _MAX_DATASETS)
    return tuple(datasets), int(header.metadata["imatrix.chunk_count"].value)


def _values(
    path: str, header: Header, content: memoryview, tensors: Mapping[str, TensorInfo], name: str
) -> Floats:
    """A tensor of an imatrix, a view of the file; `judge` has proved that it lies inside."""
    tensor = tensors.get(name)
    if tensor is None or tensor.type_id != _F32_ID:
        found = "no such tensor" if tensor is None else f"type {tensor.type_id}"
        _fail(path, "A-009", f"{quoted(name)}: sums and counts go together, and are F32", name, found)
    values = np.frombuffer(content, "<f4", tensor.n_weights, header.data_offset + tensor.offset)
    _check_values(path, name, values)
    return values


class _Cursor:
    """A position in a .dat file that moves only over bytes that are there."""

    def __init__(self, path: str, content: memoryview) -> None:
        self.path = path
        self.content = content
        self.position = 0

    @property
    def is_at_end(self) -> bool:
        return self.position == len(self.content)

    def take(self, nbytes: int, what: str) -> memoryview:
        remaining = len(self.content) - self.position
        if nbytes > remaining:
            message = f"truncated: {what} needs {nbytes} bytes, {remaining} remain"
            self.fail("A-001", message + self._what_it_is())
        self.position += nbytes
        return self.content[self.position - nbytes : self.position]

    def integer(self, what: str) -> int:
        return int(_I32.unpack(self.take(4, what))[0])

    def count(self, what: str, least: int) -> int:
        value = self.integer(what)
        if value < least:
            self.position -= 4
            self.fail(
                "A-002", f"{what} is not possible; this may be no imatrix at all", value, f"{least} or more"
            )
        return value

    def text(self, what: str) -> str:
        raw = bytes(self.take(self.count(f"the length of {what}", 0), what))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail("A-003", f"{what} is not UTF-8")

    def _what_it_is(self) -> str:
        """A clause about a file that begins with no possible number of entries, or else ""."""
        start = bytes(self.content[:512])
        is_plausible = len(start) > 4 and 1 <= _I32.unpack(start[:4])[0] <= MAX_ENTRIES
        if is_plausible and start[8:9] != b"{":
            return ""
        return looks_like(start) or "; this may be no imatrix at all"

    def fail(self, rule: str, message: str, found: object = None, expected: object = None) -> NoReturn:
        raise MalformedError(self.path, Finding(rule, message, "$", self.position, found, expected))


def _read_dat(path: str, content: memoryview) -> Imatrix:
    cursor = _Cursor(path, content)
    entries: dict[str, Importance] = {}
    n_entries = cursor.count("the number of entries", 1)
    if n_entries * _SMALLEST_ENTRY <= len(content):  # else it is cut short
        _check_number(path, n_entries)
    for i in range(n_entries):
        name = cursor.text(f"the name of entry {i}")
        if name in entries:
            _fail(path, "A-004", f"two entries for {quoted(name)}", name)
        n_calls = cursor.integer(f"the number of calls of entry {i}")
        n_values = cursor.count(f"the number of values of entry {i}", 1)
        values = np.frombuffer(cursor.take(4 * n_values, f"{n_values} values of entry {i}"), "<f4")
        _check_values(path, name, values)
        entries[name] = Importance(values, np.array([max(n_calls, 1)], np.float32))
    n_chunks = 0
    datasets: tuple[str, ...] = ()
    if not cursor.is_at_end:  # the oldest files end here
        n_chunks = cursor.integer("the number of chunks")
        if not cursor.is_at_end:
            datasets = (cursor.text("the name of the dataset"),)
    if not cursor.is_at_end:
        cursor.fail("A-005", f"{len(content) - cursor.position} bytes behind the end")
    return Imatrix(path, entries, tuple(filter(None, datasets)), n_chunks)


def _check_number(path: str, n_entries: int) -> None:
    if n_entries > MAX_ENTRIES:
        message = "more entries than the limit"
        raise LimitError(
            path, Finding("A-018", message, "$.entries", None, n_entries, f"{MAX_ENTRIES} or fewer")
        )


def _check_values(path: str, name: str, values: Floats) -> None:
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        _fail(
            path,
            "A-006",
            f"{quoted(name)}: value {bad[0]} is not possible",
            name,
            float(values[bad[0]]),
            "a finite number, not negative",
        )


def _fail(
    path: str, rule: str, message: str, name: str, found: object = None, expected: object = None
) -> NoReturn:
    raise InvalidError(
        path, Finding(rule, message, f"$.entries[{quoted(name)}]" if name else "$", None, found, expected)
    )
