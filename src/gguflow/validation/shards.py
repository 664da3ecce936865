"""A model in several files: `name-00001-of-00003.gguf` and its siblings, with the keys split.no, split.count and split.tensors.count.

Rules C-040 to C-046.
gguf.md does not describe these keys; what they mean is what llama.cpp's gguf-split writes and its loader checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gguflow.container.header import Header, parse
from gguflow.container.integrity import SHARDS_KEY
from gguflow.container.metadata import ValueType
from gguflow.container.reader import map_file
from gguflow.container.rules import key_path
from gguflow.container.strings import quoted
from gguflow.errors import FileError, Finding, StorageError
from gguflow.validation.model import Facts

NO, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
_TYPES = {NO: ValueType.UINT16, COUNT: ValueType.UINT16, TENSORS: ValueType.INT32}
_NAME = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})\.gguf", re.DOTALL)


def is_shard(header: Header) -> bool:
    """Whether the file says that it is one of several."""
    count = Facts.of(header).integer(COUNT)
    return count is not None and count > 1


def is_first(header: Header) -> bool:
    """Whether the file is the only one, or the shard that holds the metadata of all."""
    return not is_shard(header) or Facts.of(header).integer(NO) == 0


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
    number, count = facts.integer(NO), facts.integer(COUNT)
    if number is None or count is None:
        return
    if not 0 <= number < max(count, 1):
        yield facts.about_key("C-041", "split.no is not below split.count", NO, number, f"0 to {count - 1}")
    match = _NAME.fullmatch(path.name)
    if count > 1 and (match is None or (int(match[2]), int(match[3])) != (number + 1, count)):
        expected = f"…-{number + 1:05d}-of-{count:05d}.gguf"
        yield facts.about_key("C-042", "the file's name is not that of its shard: loaders find the others by name", NO, path.name, expected)


def judge_set(header: Header, path: Path) -> tuple[list[Finding], Facts]:
    """The siblings of the first shard: the findings, and the model as all of them describe it.

    header, path: of the first shard, whose keys are good.
    """
    facts = Facts.of(header)
    tensors = dict(facts.tensors)
    findings: list[Finding] = []
    count, match = facts.integer(COUNT), _NAME.fullmatch(path.name)
    if match is None or count is None:
        return findings, facts
    for number in range(1, count):
        name = f"{match[1]}-{number + 1:05d}-of-{count:05d}.gguf"
        try:
            sibling = parse(map_file(path.with_name(name)), name)
        except StorageError as error:
            findings.append(Finding("C-043", f"shard {number + 1} of {count} cannot be read: {error}", key_path(COUNT), expected=name))
            continue
        except FileError as error:
            findings.append(Finding("C-043", f"shard {name} is {error.verdict}: {error.finding.message}", key_path(COUNT), error.finding.offset))
            continue
        findings += _judge_sibling(sibling, name, number, count, header)
        for tensor in sibling.tensors:
            if tensor.name in tensors:
                findings.append(Finding("C-046", f"tensor {quoted(tensor.name)} of {name} is in another shard too", "$.tensors"))
            tensors[tensor.name] = (tensor, f"{name}:$.tensors[{len(tensors)}]")
    total = facts.integer(TENSORS)
    if not findings and total != len(tensors):
        findings.append(facts.about_key("C-045", "the shards do not hold as many tensors as split.tensors.count says", TENSORS, len(tensors), total))
    return findings, Facts(facts.metadata, tensors, facts.positions)


def _judge_sibling(sibling: Header, name: str, number: int, count: int, first: Header) -> Iterator[Finding]:
    facts = Facts.of(sibling)
    for key, expected in ((NO, number), (COUNT, count)):
        if facts.integer(key) != expected:
            yield Finding("C-044", f"shard {name} says another {key}", key_path(key), None, facts.integer(key), expected)
    if facts.text(SHARDS_KEY) != Facts.of(first).text(SHARDS_KEY):
        yield Finding(
            "C-044", f"shard {name} is of another conversion", key_path(SHARDS_KEY), None, facts.text(SHARDS_KEY), Facts.of(first).text(SHARDS_KEY)
        )
    if sibling.alignment != first.alignment:
        yield Finding("C-044", f"shard {name} has another alignment", "$", None, sibling.alignment, first.alignment, "warning")
