"""A model in several files: `name-00001-of-00003.gguf` and its siblings, with the keys split.no, split.count and split.tensors.count.

Rules C-040 to C-046.
gguf.md does not describe these keys; what they mean is what llama.cpp's gguf-split writes and its loader checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguflow.container.header import Header, parse
from gguflow.container.integrity import SHARDS_KEY
from gguflow.container.metadata import ValueType
from gguflow.container.reader import map_file
from gguflow.container.rules import key_path
from gguflow.container.shards import COUNT_KEY, NO_KEY, TENSORS_KEY, ShardName
from gguflow.container.strings import quoted
from gguflow.errors import FileError, Finding, StorageError
from gguflow.validation.model import Facts

_TYPES = {NO_KEY: ValueType.UINT16, COUNT_KEY: ValueType.UINT16, TENSORS_KEY: ValueType.INT32}


def is_shard(header: Header) -> bool:
    """Whether the file says that it is one of several."""
    count = Facts.of(header).integer(COUNT_KEY)
    return count is not None and count > 1


def is_first(header: Header) -> bool:
    """Whether the file is the only one, or the shard that holds the metadata of all."""
    return not is_shard(header) or Facts.of(header).integer(NO_KEY) == 0


def judge_keys(header: Header, path: Path) -> Iterator[Finding]:
    """The three keys of one shard by themselves, and against its name."""
    facts = Facts.of(header)
    there = [key for key in _TYPES if key in header.metadata]
    if not there:
        return
    for key, kind in _TYPES.items():
        value = header.metadata.get(key)
        if value is None:
            yield facts.about_key("C-040", f"{key} is missing, and {there[0]} is there", key)
        elif value.type is not kind:
            yield facts.about_key("C-040", f"{key} has the wrong type", key, value.type.name, kind.name)
    number, count = facts.integer(NO_KEY), facts.integer(COUNT_KEY)
    if number is None or count is None:
        return
    if not 0 <= number < max(count, 1):
        yield facts.about_key("C-041", "split.no is not below split.count", NO_KEY, number, f"0 to {count - 1}")
    name = ShardName.of(path)
    if count > 1 and (name is None or (name.number, name.count) != (number, count)):
        expected = ShardName("…", number, count)
        yield facts.about_key("C-042", "the file's name is not that of its shard: loaders find the others by name", NO_KEY, path.name, str(expected))


def judge_set(header: Header, path: Path) -> tuple[list[Finding], Facts]:
    """The siblings of the first shard: the findings, and the model as all of them describe it; without tensors where a shard cannot be read.

    header, path: of the first shard, whose keys are good, and agree with its name.
    """
    facts = Facts.of(header)
    tensors = dict(facts.tensors)
    findings: list[Finding] = []
    first, count = ShardName.of(path), facts.integer(COUNT_KEY)
    if first is None or count is None:
        return findings, facts
    is_whole = True
    for number in range(1, count):
        name = str(ShardName(first.stem, number, count))
        try:
            sibling = parse(map_file(path.with_name(name)), name)
        except (StorageError, FileError) as error:
            is_whole = False
            why = f"is {error.verdict}: {error.finding.message}" if isinstance(error, FileError) else f"cannot be read: {error}"
            findings.append(Finding("C-043", f"shard {number + 1} of {count} {why}", key_path(COUNT_KEY), expected=name))
            continue
        findings += _judge_sibling(sibling, name, number, count, header)
        for i, tensor in enumerate(sibling.tensors):
            if tensor.name in tensors:
                findings.append(Finding("C-046", f"tensor {quoted(tensor.name)} of {name} is in another shard too", "$.tensors"))
            tensors[tensor.name] = (tensor, f"{name}:$.tensors[{i}]")
    total = facts.integer(TENSORS_KEY)
    if not findings and total != len(tensors):
        findings.append(
            facts.about_key("C-045", "the shards do not hold as many tensors as split.tensors.count says", TENSORS_KEY, len(tensors), total)
        )
    return findings, Facts(facts.metadata, tensors if is_whole else {}, facts.positions)


def _judge_sibling(sibling: Header, name: str, number: int, count: int, first: Header) -> Iterator[Finding]:
    facts = Facts.of(sibling)
    for key, expected in ((NO_KEY, number), (COUNT_KEY, count)):
        if facts.integer(key) != expected:
            yield Finding("C-044", f"shard {name} says another {key}", key_path(key), None, facts.integer(key), expected)
    if facts.text(SHARDS_KEY) != Facts.of(first).text(SHARDS_KEY):
        yield Finding(
            "C-044", f"shard {name} is of another conversion", key_path(SHARDS_KEY), None, facts.text(SHARDS_KEY), Facts.of(first).text(SHARDS_KEY)
        )
    if sibling.alignment != first.alignment:
        yield Finding("C-044", f"shard {name} has another alignment", "$", None, sibling.alignment, first.alignment, "warning")
