"""Changes the metadata of a GGUF file: writes a new file with verified data, then renames it.

Rules I-011 to I-013. Other keys keep their values and positions, new ones come last, and no tensor changes.
The result keeps the rules that the file kept: an edit that would break one is refused before anything is
written.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguflow import platform, recipes
from gguflow.arguments import file_path, flag, shown, suggestion, texts
from gguflow.blocks import block_sizes
from gguflow.container import rules
from gguflow.container.header import VERSION, Header, align, parse
from gguflow.container.integrity import (
    NAMESPACE,
    completed_header,
    has_set,
    hexdigest,
    new_leaf_digest,
    placeholder,
    without_set,
)
from gguflow.container.metadata import (
    SCALAR_CODES,
    Metadata,
    Value,
    ValueType,
    array,
    boolean,
    integer_under,
    string,
)
from gguflow.container.output_file import OutputFile
from gguflow.container.payload_keys import keys_of_payloads
from gguflow.container.reader import map_file
from gguflow.container.row_store import is_row_store
from gguflow.container.shards import COUNT_KEY
from gguflow.container.verification import check_set, compare, stale, tensor_digests
from gguflow.container.writer import build
from gguflow.errors import Finding, InvalidError, UsageError, warn
from gguflow.threads import resolve as resolve_threads
from gguflow.validation.meaning import judge_meaning
from gguflow.validation.model import Facts

TYPES = {
    "u8": ValueType.UINT8,
    "i8": ValueType.INT8,
    "u16": ValueType.UINT16,
    "i16": ValueType.INT16,
    "u32": ValueType.UINT32,
    "i32": ValueType.INT32,
    "u64": ValueType.UINT64,
    "i64": ValueType.INT64,
    "f32": ValueType.FLOAT32,
    "f64": ValueType.FLOAT64,
    "bool": ValueType.BOOL,
    "str": ValueType.STRING,
}
"""The types of values, as the command line names them."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

_ARRAY = re.compile(r"arr\[(\w+)\]")

_ALIGNMENT = "general.alignment"

_LISTS = {"general.tags", "general.languages", "general.datasets"}
"""Keys that hold arrays of strings, whether the file has them or not."""

PIECE = 1 << 20
"""Bytes that a thread copies at a time."""

MAX_TEXT_NBYTES = 64 << 20
"""Bytes of a file whose content becomes a string."""

Change = tuple[str, Value | None, Value | None]
"""A key, its old value and its new value; None if there is none."""


@dataclass(frozen=True)
class Edited:
    """The result of an edit.

    output: the new file.
    changes: the changed keys.
    nbytes: size of the new file.
    verified: whether the data was checked against the file's digests.
    notes: what the new file could not keep of the one that it replaced (its owner, other names), in
        sentences.
    """

    output: Path
    nbytes: int
    changes: tuple[Change, ...]
    verified: bool
    notes: tuple[str, ...] = ()


def parse_assignment(text: str) -> tuple[str, Value]:
    """Parse KEY=TYPE:VALUE. A string @FILE is read from that file; @@TEXT means @TEXT. TYPE arr[str], or of
    another type, takes an array in JSON.

    Raises UsageError if the text has another form, TYPE is unknown or VALUE does not fit it, or FILE is no
    regular file or longer than MAX_TEXT_NBYTES; StorageError.
    """
    key, equals, typed = text.partition("=")
    name, colon, written = typed.partition(":")
    if not key or not equals or not colon:
        raise UsageError(
            f"{shown(text)} is not an assignment; "
            "write KEY=TYPE:VALUE, as in tokenizer.ggml.eos_token_id=u32:2"
        )
    if (of_array := _ARRAY.fullmatch(name)) is not None and of_array[1] in TYPES:
        return key, _parsed_array(key, of_array[1], written)
    if name not in TYPES:
        raise UsageError(
            f"unknown type {shown(name)} for {shown(key)}; known: {', '.join(TYPES)}{suggestion(name, TYPES)}"
        )
    value = _parsed(TYPES[name], written)
    if value is None:
        raise UsageError(
            f"{shown(written)} is not a value of type {name} for {shown(key)}; "
            f"expected {_domain(TYPES[name])}"
        )
    return key, value


def edit(
    path: str | os.PathLike[str],
    assign: Sequence[tuple[str, Value]],
    remove: Sequence[str] = (),
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    integrity: bool = True,
    renew_integrity: bool = False,
    threads: int | None = None,
) -> Edited:
    """Set and remove metadata keys of a GGUF file, in place or into `output`.

    An interruption leaves either the old file or the complete new one. Replaced in place, the new file has
    the owner, the mode and the extended attributes of the old one.

    path: the file.
    assign: keys and values to set.
    remove: keys to remove.
    output: the file to write; None to replace `path`.
    overwrite: whether to replace an existing output.
    integrity: whether to check the file against its integrity keys, if it has them, and renew them; False
        removes them without checking.
    renew_integrity: whether to compute integrity keys from the file as it is, whatever keys it has: their
        recipe is then "copy", and their source the file. Otherwise keys that are stale, because another tool
        rewrote the file, are removed, with a warning (`gguflow.errors.gathered_warnings`).
    threads: number of threads; None for all processors.

    Raises UsageError (a key that does not exist or must not be changed; an output that exists), a FileError
    if the file is not valid, its data does not match its digests (I-006), or it would break a rule with these
    changes; StorageError.
    """
    path = file_path(path, "path")
    output = None if output is None else file_path(output, "output")
    flag(overwrite, "overwrite")
    flag(integrity, "integrity")
    flag(renew_integrity, "renew_integrity")
    if renew_integrity and not integrity:
        raise UsageError("integrity keys cannot be both renewed and left out")
    threads = resolve_threads(threads)
    remove = texts(remove, "remove")
    if isinstance(assign, (str, bytes)) or not isinstance(assign, Sequence):
        raise UsageError(
            f"assign must be a list or tuple of pairs of a key and gguflow's Value, not {shown(assign)}"
        )
    for pair in assign:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Value)):
            raise UsageError(
                "assign must hold pairs of a key and gguflow's Value; parse_assignment makes one of "
                f"KEY=TYPE:VALUE. Found {shown(pair)}"
            )
    with platform.storage_errors("read", path):
        if output is None and path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link, which a file would replace; "
                f"name the file itself ({path.resolve()}), or an output (-o)"
            )
    if not assign and not remove and integrity and not renew_integrity:
        raise UsageError("nothing to change; name keys to set or to remove")
    target = path if output is None else output
    with platform.storage_errors("read", path):
        status = os.stat(path)
    old, head, doubt = _read_header(path, verified=integrity and not renew_integrity)
    metadata = _changed(old.metadata, assign, remove)
    if doubt is not None:
        warn(path, doubt)
    if doubt is not None or renew_integrity or not integrity:
        metadata = without_set(metadata) | keys_of_payloads(metadata)
    if renew_integrity:
        metadata |= _new_set(path, old, head)
    new = _planned(old, metadata, target)
    written = OutputFile(target, new.data_offset + _data_nbytes(old), overwrite=overwrite or output is None)
    with platform.storage_errors("read", path), path.open("rb") as source, written:
        if platform.read_at(source.fileno(), len(head), 0) != head:  # rows that were flushed, before the lock
            raise InvalidError(path, Finding("R-002", "the file changed while it was read"))
        copy = _copier(source.fileno(), path, written, new.data_offset - old.data_offset)
        digests = list(tensor_digests(old, block_sizes, copy, threads))
        for finding in compare(old, digests) if has_set(metadata) and not renew_integrity else ():
            raise InvalidError(path, finding)
        _check_same(path, status)
        source.close()  # Windows cannot replace an open file
        written.write(_header_bytes(new, written.nbytes, digests), 0)
        written.commit()
    changes = tuple(
        (key, old.metadata.get(key), metadata.get(key)) for key in (*remove, *(key for key, _ in assign))
    )
    return Edited(target, written.nbytes, changes, has_set(metadata), tuple(written.notes))


def _parsed_array(key: str, name: str, written: str) -> Value:
    """An array of values of the type `name`, given as JSON. Raises UsageError."""
    kind, text = TYPES[name], _text(written)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, list):
        example = '["a","b"]' if kind is ValueType.STRING else "[1,2]"
        raise UsageError(f"{shown(text)} is no array for {shown(key)}; write it as JSON, as in {example}")
    elements = []
    for i, element in enumerate(given):
        value = _element(kind, element)
        if value is None:
            raise UsageError(
                f"element {i} of the array for {shown(key)} is no value of type {name}: "
                f"{shown(str(element))}; expected {_domain(kind)}"
            )
        elements.append(value.value)
    return array(kind, elements)


def _element(kind: ValueType, element: object) -> Value | None:
    """A value of a type from what JSON has for it; None where it is another."""
    if kind is ValueType.STRING:
        is_text = isinstance(element, str) and element.encode("utf-8", "ignore").decode("utf-8") == element
        return string(element) if is_text and isinstance(element, str) else None
    if kind is ValueType.BOOL:
        return boolean(element) if isinstance(element, bool) else None
    if isinstance(element, bool) or not isinstance(element, int | float):
        return None
    return _parsed(kind, repr(element))


def _parsed(kind: ValueType, text: str) -> Value | None:
    """Parse a value of a type; None if the text is not one."""
    if kind is ValueType.STRING:
        return string(_text(text))
    if kind is ValueType.BOOL:
        return boolean(text == "true") if text in ("true", "false") else None
    code = "<" + SCALAR_CODES[kind]
    is_float = kind in (ValueType.FLOAT32, ValueType.FLOAT64)
    if not re.fullmatch(_FLOAT if is_float else _INTEGER, text):
        return None
    try:
        number: Any = struct.unpack(code, struct.pack(code, float(text) if is_float else int(text)))[0]
    except (ValueError, OverflowError, struct.error):
        return None
    return Value(kind, number) if math.isfinite(number) else None


def _text(text: str) -> str:
    """A string as given, or the content of the file after @."""
    if not text.startswith("@") or text.startswith("@@"):
        return text[1:] if text.startswith("@@") else text
    path = Path(text[1:])
    content = platform.read_regular(path, MAX_TEXT_NBYTES)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: byte {error.start} does not belong there") from error


def _domain(kind: ValueType) -> str:
    """The values of a type, for a message."""
    if kind is ValueType.STRING:
        return "text"
    if kind is ValueType.BOOL:
        return "true or false"
    if kind in (ValueType.FLOAT32, ValueType.FLOAT64):
        return "a finite number in its range"
    bits = 8 * struct.calcsize("<" + SCALAR_CODES[kind])
    low, high = (
        (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.name.startswith("INT") else (0, (1 << bits) - 1)
    )
    return f"an integer from {low} to {high}"


def _read_header(path: Path, *, verified: bool) -> tuple[Header, bytes, Finding | None]:
    """The header, detached from the map of the file; its bytes; and where it is to be checked also against
    its digest, what is stale about that.
    """
    content = map_file(path)
    header = parse(content, str(path))
    rules.raise_first(path, rules.judge(header, block_sizes, len(content)))
    of_set = list(check_set(header, content)) if verified else []
    rules.raise_first(path, of_set)
    return header.detached(content, str(path)), bytes(content[: header.data_offset]), stale(of_set)


def _new_set(path: Path, header: Header, head: bytes) -> Metadata:
    """The integrity keys of a file that claims nothing but itself, to be filled in. Raises UsageError."""
    if (integer_under(header.metadata, COUNT_KEY) or 1) > 1:
        raise UsageError(
            f"{path} is one of several files, whose integrity keys belong together; "
            "`gguflow convert FIRST -t copy` writes all of them anew"
        )
    if is_row_store(header.metadata):
        raise UsageError(f"{path} is a row store, which has no integrity keys while it may grow")
    return placeholder(len(header.tensors), "copy", recipes.VERSION, [(path.name, hexdigest(head))])


def _changed(metadata: Metadata, assign: Sequence[tuple[str, Value]], remove: Sequence[str]) -> Metadata:
    """The metadata after the edit. Raises UsageError for missing or protected keys, or keys named twice."""
    named = [*(key for key, _ in assign), *remove]
    for key in named:
        if key.startswith(NAMESPACE):
            raise UsageError(
                f"{key} is maintained by gguflow; to remove all keys under {NAMESPACE} "
                "pass --no-integrity (integrity=False)"
            )
        if key == _ALIGNMENT:
            raise UsageError(
                f"{_ALIGNMENT} determines the layout of the data: changing it takes a conversion"
            )
        if named.count(key) > 1:
            raise UsageError(f"{key} is named twice")
    for key in remove:
        if key not in metadata:
            raise UsageError(f"there is no key {key!r} to remove")
    for key, value in assign:
        _check_kind(key, metadata.get(key), value)
    return {**{key: value for key, value in metadata.items() if key not in remove}, **dict(assign)}


def _check_kind(key: str, old: Value | None, new: Value) -> None:
    """Raise UsageError where a single value would take the place of an array; arrays of the tokenizer have
    rules of their own.
    """
    if (
        new.type is ValueType.ARRAY
        or key.startswith("tokenizer.")
        or not (key in _LISTS or (old is not None and old.type is ValueType.ARRAY))
    ):
        return
    element = old.element_type if old is not None and old.element_type is not None else ValueType.STRING
    name = next((name for name, kind in TYPES.items() if kind is element), "str")
    example = '["a","b"]' if element is ValueType.STRING else "[1,2]"
    raise UsageError(f"{key} is an array; write {key}=arr[{name}]:{example}")


def _planned(old: Header, metadata: Metadata, target: Path) -> Header:
    """Plan the new header, with placeholder digests. Raises InvalidError for a rule that only it breaks."""
    data_offset = len(build(metadata, old.tensors, old.alignment))
    new = Header(VERSION, metadata, old.tensors, old.alignment, data_offset)
    known = {(finding.rule, finding.message) for finding in _judged(old)}
    for finding in _judged(new):
        if finding.severity == "error" and (finding.rule, finding.message) not in known:
            raise rules.error_class(finding.rule)(target, finding)
    return new


def _judged(header: Header) -> Iterator[Finding]:
    """The broken rules about the header and, if the whole model is in this file, about its meaning."""
    yield from rules.judge(header, block_sizes, None)
    if "split.count" not in header.metadata:
        yield from judge_meaning(Facts.of(header), strict=False)


def _header_bytes(header: Header, nbytes: int, digests: Sequence[bytes]) -> bytes:
    if not has_set(header.metadata):
        return build(header.metadata, header.tensors, header.alignment)
    return completed_header(header.metadata, header.tensors, header.alignment, nbytes, digests)


def _data_nbytes(header: Header) -> int:
    """Bytes of the data section, with all padding."""
    if not header.tensors:
        return 0
    last = header.tensors[-1]
    return align(last.offset + (rules.tensor_nbytes(last, block_sizes) or 0), header.alignment)


def _copier(fd: int, path: Path, output: OutputFile, shift: int) -> Callable[[int, int], bytes]:
    """A function that copies bytes [first, last) to the output, `shift` bytes on; it returns the digest."""

    def copy(first: int, last: int) -> bytes:
        digest = new_leaf_digest()
        for position in range(first, last, PIECE):
            with platform.storage_errors("read", path):
                data = platform.read_at(fd, min(PIECE, last - position), position)
            output.write(data, position + shift)
            digest.update(data)
        return bytes(digest.digest())

    return copy


def _check_same(path: Path, before: os.stat_result) -> None:
    """Raise InvalidError (R-002) if the file at the path is another one or has changed."""
    with platform.storage_errors("read", path):
        now = os.stat(path)
    if (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) != (
        before.st_dev,
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    ):
        raise InvalidError(path, Finding("R-002", "the file changed while it was read"))
