"""RowStore: vectors are appended and quantized to a GGUF file that can be read meanwhile (spec/rows.md)."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import weakref
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow import blocks, platform
from gguflow.arguments import MAX_SIZE, choice, file_path, flag, integer, shown
from gguflow.arrays import output_array
from gguflow.blocks import BlockFormat
from gguflow.blocks.families import Encoding
from gguflow.container import rules
from gguflow.container.header import align, parse
from gguflow.container.mapped_file import Bytes, MappedFile
from gguflow.container.row_store import COUNT_BYTES, count_position, is_row_store
from gguflow.errors import Finding, InvalidError, StorageError, UsageError
from gguflow.rows.files import create, leads_to, let_go, open_file
from gguflow.rows.formats import find_codec
from gguflow.rows.judging import codec_of, judge_rows

Floats = NDArray[np.float32]

MODES = ("w", "a", "r")


class RowStore:
    """Rows of `width` numbers in one format, in one file: keys or values of a cache, embeddings, activations.

        with RowStore("keys.gguf", "q8_0", 128) as store:
            store.append(vectors)           # float[n, 128]; read back by store.rows() at once
            store.flush()                   # on the medium, and counted: readers see them, kill -9 keeps them
        RowStore.open("keys.gguf").rows(10, 20)

    One process writes and any number read; `refresh` shows readers the rows that were flushed since. Threads
    may share a store. If a writer is killed, the rows that it appended without a flush are lost, and flushed
    rows are kept. A child of fork can read a store of its parent; to write, it opens the store itself.

    path: the path of the file.
    format: a block format whose blocks divide the width ("q8_0", "q4_k", "f16"), or an encoding of the
        parametric family of fixed size in which each row is decoded by itself ("int8_row", "affine4_b64",
        "nf4_b64").
    width: the number of numbers in a row.
    mode: "w" creates a new file; "a" continues one (format and width are then optional) or creates it; "r"
        reads, as `open` does.
    overwrite: whether "w" may replace a file.

    Raises UsageError (an existing file; a file that another process is writing; a format in which a row
    cannot be decoded by itself; not the format or width of the file), ShapeError (width), UnknownFormatError,
    StorageError, a FileError if an existing file is not a valid row store.
    """

    _n_rows: int
    _n_flushed: int

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | BlockFormat | Encoding | None = None,
        width: int | None = None,
        *,
        mode: str = "w",
        overwrite: bool = False,
    ) -> None:
        choice(mode, "mode", MODES)
        flag(overwrite, "overwrite")
        self.path = file_path(path, "path")
        if not self.path.name or not platform.is_possible_name(self.path):
            raise UsageError(f"{shown(str(self.path))} does not name a file; name one, such as rows.gguf")
        self._absolute = Path(os.path.abspath(self.path))
        self.mode = mode
        self._append_lock, self._flush_lock = threading.Lock(), threading.Lock()
        self._failure = ""
        if mode == "w" or (mode == "a" and not self._exists()):
            if format is None or width is None:
                raise UsageError("a new store needs a format and a width")
            create(self.path, find_codec(format, width), overwrite=overwrite)
        self._fd = open_file(self.path, writable=self._writes)
        self._pid = os.getpid()
        self._close_fd = weakref.finalize(self, let_go, self._fd, self._pid)  # where nobody calls `close`
        try:
            self._read_header()
            self._check_wishes(format, width)
            if self._writes:
                with self._writing():
                    self._trim()
        except BaseException:
            self._close()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RowStore:
        """Open a store for reading, as `RowStore(path, mode="r")`.

        path: the path of the file.
        """
        return cls(path, mode="r")

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._codec.name

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self._codec.width

    @property
    def row_nbytes(self) -> int:
        """Bytes of a row in the file."""
        return self._codec.row_nbytes

    @property
    def n_flushed(self) -> int:
        """Rows that are on the medium and counted in the file."""
        return self._n_flushed

    def __len__(self) -> int:
        """The number of rows that can be read.

        For a writer, all that it has appended; for a reader, those that were counted when it last looked.
        """
        return self._n_rows

    # --- writing

    def append(self, vectors: ArrayLike) -> range:
        """Quantize vectors and append them; returns the numbers of their rows.

        vectors: the vectors; float[n, width], or float[width] for one.

        Raises ShapeError, NonFiniteError (NaN, infinity, or more than the format holds), UsageError (a
        reader, closed), StorageError; then nothing is appended.
        """
        self._require_writer()
        packed = self._codec.encode(vectors)
        with self._append_lock, self._writing():
            self._require_writer()
            first = self._n_rows
            platform.pwrite_all(self._fd, packed, self._place(first))
            self._n_rows = first + len(packed)
        return range(first, first + len(packed))

    def flush(self) -> int:
        """Write all appended rows to the medium, then their count; returns the number of rows.

        After a StorageError the store accepts no more rows, because the system has dropped what it could not
        write.

        Raises UsageError (a reader, closed, a child of fork), StorageError: the system refused, or the file
        lost its name (it was replaced, moved or removed), so that the rows could not be found.
        """
        with self._flush_lock:
            with self._append_lock, self._writing():
                self._require_writer()
                n_rows = self._n_rows
                self._pad()
            try:
                with self._writing():
                    if n_rows != self._n_flushed:
                        platform.sync_data(self._fd)
                        platform.pwrite_all(self._fd, struct.pack("<Q", n_rows), self._count_position)
                        platform.sync_data(self._fd)
                    self._prove_name()
            except StorageError as error:
                self._failure = str(error)
                raise
            self._n_flushed = n_rows
        return n_rows

    def close(self) -> None:
        """Flush and close the file. Arrays that `raw` gave stay valid.

        Raises what `flush` raises; the file is closed even then.
        """
        if self._pid != os.getpid():  # a child of fork: its parent's locks may be taken for ever
            self._close()
            return
        try:
            if self._writes and self._fd >= 0 and not self._failure:
                self.flush()
                with self._append_lock, self._writing():
                    self._trim()
        finally:
            with self._flush_lock, self._append_lock:
                self._close()

    # --- reading

    def refresh(self) -> int:
        """Look up how many rows have been flushed; returns the number that can be read.

        Raises InvalidError (R-002, R-116) if rows were removed, UsageError (closed).
        """
        self._require_open()
        if not self._writes:
            n_rows = self._read_count()
            if n_rows < self._n_rows:
                finding = Finding(
                    "R-116",
                    "rows went away",
                    "$.tensors[0].dims[1]",
                    self._count_position,
                    n_rows,
                    f"{self._n_rows} or more",
                )
                raise InvalidError(self.path, finding)
            self._map.read(0, self._place(n_rows))
            self._n_rows, self._n_flushed = n_rows, n_rows
        return self._n_rows

    def rows(self, first: int = 0, last: int | None = None, *, out: Floats | None = None) -> Floats:
        """Decode rows [first, last): float32[last - first, width].

        first: the first row.
        last: the end of the range, exclusive; None for the number of rows.
        out: the array for the result; C-contiguous float32[last - first, width].

        Raises UsageError (no such rows, closed), ShapeError (out), InvalidError (R-002: the file was
        shortened; or a row that does not decode).
        """
        packed = self.raw(first, last)
        weights: Floats = output_array(out, (len(packed), self.width), np.dtype(np.float32))
        self._codec.decode(packed, weights)
        return weights

    def raw(self, first: int = 0, last: int | None = None) -> Bytes:
        """Rows [first, last) as they are in the file: uint8[last - first, row_nbytes].

        The result is a read-only view of the map.

        first: the first row.
        last: the end of the range, exclusive; None for the number of rows.

        Raises what `rows` raises.
        """
        self._require_open()
        n_rows = self._n_rows
        first = integer(first, "first", -MAX_SIZE)
        last = n_rows if last is None else integer(last, "last", -MAX_SIZE)
        if not 0 <= first <= last <= n_rows:
            raise UsageError(f"{self.path} has {n_rows} rows, not {first} to {last}")
        return self._map.read(self._place(first), self._place(last)).reshape(last - first, self.row_nbytes)

    def __enter__(self) -> RowStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RowStore {self.path}: {len(self)} rows of {self.width} in {self.format}>"

    # --- inside

    @property
    def _writes(self) -> bool:
        return self.mode != "r"

    def _read_header(self) -> None:
        """Parse and judge the header, and get the number of rows.

        The count is read before the size of the file, which grows first.
        """
        self._map = MappedFile(self.path, fd=self._fd)
        header = parse(self._map.map_all(), str(self.path))
        file_nbytes = self._map.current_nbytes()
        if not is_row_store(header.metadata):
            raise UsageError(f"{self.path} is no row store; gguflow.open reads other files")
        rules.raise_first(
            self.path,
            chain(rules.judge(header, blocks.block_sizes, file_nbytes), judge_rows(header, file_nbytes)),
        )
        self._codec = codec_of(header)
        self._count_position = count_position(header)
        self._data_offset, self._alignment = header.data_offset, header.alignment
        self._n_rows = header.tensors[0].dims[1]
        self._n_flushed = self._n_rows

    def _read_count(self) -> int:
        """The number of rows in the file, which another process may be writing.

        It is read in one load if it lies at a multiple of eight.
        """
        at = self._count_position
        return int(self._map.read(at, at + COUNT_BYTES).view("<u8")[0])

    def _check_wishes(self, format: str | BlockFormat | Encoding | None, width: int | None) -> None:
        """Raises UsageError where the caller expects another store."""
        wanted = find_codec(
            format if format is not None else self.format, width if width is not None else self.width
        )
        if wanted != self._codec:
            raise UsageError(
                f"{self.path} holds rows of {self.width} in {self.format}, "
                f"not of {wanted.width} in {wanted.name}"
            )

    def _place(self, row: int) -> int:
        """Where a row begins, in bytes from the start of the file."""
        return self._data_offset + row * self.row_nbytes

    def _pad(self) -> None:
        """Write zeros behind the last row, up to the alignment; the next row overwrites them.

        Readers that load the whole data section need them.
        """
        end = self._place(self._n_rows)
        platform.pwrite_all(self._fd, bytes(align(end, self._alignment) - end), end)

    def _trim(self) -> None:
        """The file ends with its last row and the padding."""
        if self._map.current_nbytes() != align(self._place(self._n_rows), self._alignment):
            platform.shorten(self._fd, self._place(self._n_rows))
            self._pad()

    def _exists(self) -> bool:
        with platform.storage_errors("write", self.path):
            return self.path.exists()

    def _prove_name(self) -> None:
        """Raises StorageError where the rows are in a file that its name does not lead to (R-119)."""
        try:
            is_there = leads_to(self._absolute, self._fd)
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise StorageError(
                f"{self.path} is not the file any more that rows are appended to: it was replaced, moved or "
                "removed, and nobody finds these rows under that name"
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with platform.storage_errors("write", self.path):
            yield

    def _require_open(self) -> None:
        if self._fd < 0:
            raise UsageError(f"{self.path} is closed")

    def _require_writer(self) -> None:
        self._require_open()
        if not self._writes:
            raise UsageError(f'{self.path} is open for reading; RowStore(path, mode="a") appends')
        if self._pid != os.getpid():
            raise UsageError(
                f"{self.path} was opened by another process, of which this is a child (fork); one process "
                "writes to a row store: let it close the store, then open it here"
            )
        if self._failure:
            raise StorageError(
                f"{self.path} takes no more rows after a flush that failed: {self._failure}; open it again"
            )

    def _close(self) -> None:
        if self._fd >= 0:
            self._fd = -1
            self._close_fd()
