"""Models in several files: `NAME-00001-of-00003.gguf` and its siblings, as in llama.cpp's gguf-split.

The first file has the metadata of the model; every file has the three keys below, and the tensor table and
data of its own tensors. gguf.md does not describe the keys. Rules C-040 to C-046.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from gguflow.container.header import Header
from gguflow.container.integrity import SHARDS_KEY
from gguflow.container.metadata import Metadata, Value, ValueType, i32, integer_under
from gguflow.container.rules import key_path
from gguflow.container.strings import quoted
from gguflow.errors import FileError, Finding, InvalidError, StorageError, UsageError

NO_KEY = "split.no"
COUNT_KEY = "split.count"
TENSORS_KEY = "split.tensors.count"

MAX_SHARDS = (1 << 16) - 1
"""split.count is a u16."""

_TYPES = {NO_KEY: ValueType.UINT16, COUNT_KEY: ValueType.UINT16, TENSORS_KEY: ValueType.INT32}

_NAME = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class ShardName:
    """The parts of a shard's file name.

    stem: the name without number and suffix.
    number: its number from 0, as split.no; the file name counts from 1.
    count: the number of shards.
    """

    stem: str
    number: int
    count: int

    @classmethod
    def of(cls, path: Path) -> ShardName | None:
        match = _NAME.fullmatch(path.name)
        return cls(match[1], int(match[2]) - 1, int(match[3])) if match else None

    def __str__(self) -> str:
        return f"{self.stem}-{self.number + 1:05d}-of-{self.count:05d}.gguf"


def shard_metadata(number: int, count: int, n_tensors: int) -> Metadata:
    """The three keys of a shard.

    number: its number, from 0.
    count: the number of shards.
    n_tensors: the number of tensors of all shards together.
    """
    return {NO_KEY: _u16(number), COUNT_KEY: _u16(count), TENSORS_KEY: i32(n_tensors)}


def _u16(value: int) -> Value:
    return Value(ValueType.UINT16, value)


def n_shards(header: Header) -> int:
    """The number of files of the model, by split.count.

    header: the header of one of its files.
    """
    return max(integer_under(header.metadata, COUNT_KEY) or 1, 1)


def later_shards(path: Path, header: Header) -> list[ShardName]:
    """The names of all shards but the first.

    path: the path of the first shard, whose keys agree with its name.
    header: the header of the first shard.

    Raises UsageError for a later shard, which does not have the model's metadata.
    """
    name = ShardName.of(path)
    if name is None or n_shards(header) == 1:
        return []
    if name.number:
        raise UsageError(
            f"{path} is shard {name.number + 1} of {name.count}; "
            f"name the first: {ShardName(name.stem, 0, name.count)}"
        )
    return [ShardName(name.stem, number, n_shards(header)) for number in range(1, n_shards(header))]


class ShardFile(Protocol):
    """A file of a model that has been opened."""

    @property
    def path(self) -> Path: ...

    @property
    def header(self) -> Header: ...


S = TypeVar("S", bound=ShardFile)


@dataclass(frozen=True)
class RaiseFirst:
    """The policy that stops opening shards at the first broken rule.

    refuse: a function of a file's path and the findings about it; raises the error of the first finding that
        is an error.
    """

    refuse: Callable[[Path, Iterable[Finding]], None]

    def take(self, path: Path, findings: Iterable[Finding]) -> None:
        self.refuse(path, findings)

    def take_failure(self, path: Path, name: ShardName, error: StorageError | FileError) -> None:
        if isinstance(error, FileError):
            raise error
        message = f"shard {name.number + 1} of {name.count} is missing: {error}"
        raise InvalidError(path, Finding("C-043", message)) from error


@dataclass(frozen=True)
class ReportAll:
    """The policy that opens all shards that can be opened and collects what is wrong.

    findings: the findings so far; they are reported about the first file.
    """

    findings: list[Finding] = field(default_factory=list)

    def take(self, path: Path, findings: Iterable[Finding]) -> None:
        self.findings.extend(findings)

    def take_failure(self, path: Path, name: ShardName, error: StorageError | FileError) -> None:
        if isinstance(error, FileError):
            why = f"is {error.verdict}: {error.finding.message}"
        else:
            why = f"cannot be read: {error}"
        message = f"shard {name.number + 1} of {name.count} {why}"
        self.findings.append(Finding("C-043", message, key_path(COUNT_KEY), expected=path.name))


def open_shards(first: S, open_file: Callable[[Path], S], policy: RaiseFirst | ReportAll) -> Iterator[S]:
    """The files of a model in order: the first, then each of the others as it is opened.

    A shard is judged when the next one is requested: by then the caller has it, and can close it. At the end
    they are judged together, if all could be opened.

    first: the first file, already open, whose keys are valid and agree with its name.
    open_file: a function that opens another file by its path.
    policy: what happens with broken rules, C-043 to C-046.

    Raises UsageError if the first file is a later shard, and what `open_file` and the policy raise.
    """
    yield first
    shards, names = [first], later_shards(first.path, first.header)
    for name in names:
        path = first.path.with_name(str(name))
        try:
            shard = open_file(path)
        except (StorageError, FileError) as error:
            policy.take_failure(path, name, error)
            continue
        yield shard
        policy.take(path, judge_sibling(path.name, shard.header, name.number, first.header))
        shards.append(shard)
    if names and len(shards) == 1 + len(names):
        policy.take(first.path, judge_together([(shard.path.name, shard.header) for shard in shards]))


def judge_keys(header: Header, path: Path) -> Iterator[Finding]:
    """Findings about the three keys of a file and its name; none for a file without these keys.

    header: the header of the file.
    path: the path of the file.
    """
    there = [key for key in _TYPES if key in header.metadata]
    if not there:
        return
    for key, kind in _TYPES.items():
        value = header.metadata.get(key)
        if value is None:
            yield Finding("C-040", f"{key} is missing, and {there[0]} is there", key_path(key))
        elif value.type is not kind:
            yield _about(key, header, "C-040", f"{key} has the wrong type", value.type.name, kind.name)
    number, count = integer_under(header.metadata, NO_KEY), integer_under(header.metadata, COUNT_KEY)
    if number is None or count is None:
        return
    if not 0 <= number < max(count, 1):
        yield _about(
            NO_KEY, header, "C-041", "split.no is not below split.count", number, f"0 to {count - 1}"
        )
    name = ShardName.of(path)
    if count > 1 and (name is None or (name.number, name.count) != (number, count)):
        message = "the file's name is not that of its shard: loaders find the others by name"
        yield _about(NO_KEY, header, "C-042", message, path.name, str(ShardName("…", number, count)))


def judge_sibling(name: str, header: Header, number: int, first: Header) -> Iterator[Finding]:
    """Findings about a shard that must match its file name and be of the same model as the first shard.

    name: the name of its file.
    header: the header of the shard.
    number: the number of the shard, from 0.
    first: the header of the first shard.
    """
    for key, expected in ((NO_KEY, number), (COUNT_KEY, n_shards(first))):
        found = integer_under(header.metadata, key)
        if found != expected:
            yield _about(key, header, "C-044", f"shard {name} says another {key}", found, expected)
    ours, theirs = (
        None if (value := one.metadata.get(SHARDS_KEY)) is None else value.value for one in (header, first)
    )
    if ours != theirs:
        message = f"shard {name} is of another conversion"
        if ours is None or theirs is None:  # another tool wrote one of them
            message = f"shard {name} is perhaps of another conversion: one of the two does not say"
        finding = _about(SHARDS_KEY, header, "C-044", message, ours, theirs)
        yield finding if ours is not None and theirs is not None else replace(finding, severity="warning")
    if header.alignment != first.alignment:
        yield Finding(
            "C-044",
            f"shard {name} has another alignment",
            "$",
            None,
            header.alignment,
            first.alignment,
            "warning",
        )


def judge_together(shards: Sequence[tuple[str, Header]]) -> Iterator[Finding]:
    """Findings about the tensors of all files of a model.

    shards: the name and the header of each file, in order; the keys of the first are valid.
    """
    _, first = shards[0]
    where: dict[str, str] = {}
    for name, header in shards:
        for i, tensor in enumerate(header.tensors):
            if tensor.name in where:
                message = f"tensor {quoted(tensor.name)} of {name} is in {where[tensor.name]} too"
                yield Finding("C-046", message, f"{name}:$.tensors[{i}].name", tensor.position)
            where.setdefault(tensor.name, name)
    total = integer_under(first.metadata, TENSORS_KEY)
    n_tensors = sum(len(header.tensors) for _, header in shards)
    if total != n_tensors:
        yield _about(
            TENSORS_KEY,
            first,
            "C-045",
            f"the shards do not hold as many tensors as {TENSORS_KEY} says",
            n_tensors,
            total,
        )


def _about(key: str, header: Header, rule: str, message: str, found: object, expected: object) -> Finding:
    return Finding(rule, message, key_path(key), header.key_positions.get(key), found, expected)
