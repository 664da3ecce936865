"""Payloads of the parametric family: agreement of keys, tensors and descriptors, and their content.

Rules E-001 to E-104. The keys are in the first file of a model; a later shard alone is only I8 tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol, cast

import numpy as np

from gguflow.arrays import Bytes
from gguflow.blocks.families import Encoding, family_at, find_encoding, part, parts
from gguflow.container.header import Header
from gguflow.container.payload_keys import MUST_UNDERSTAND_KEY, PAYLOADS_KEY, payload_names, strings_under
from gguflow.container.strings import quoted
from gguflow.errors import FileError, Finding, GguflowError
from gguflow.sources.payloads import form_at
from gguflow.validation.model import Facts

_I8 = 24


class OpenPayload(Protocol):
    """A payload whose descriptor is sound."""

    @property
    def encoding(self) -> Encoding:
        """The encoding."""

    def judge(self) -> Iterator[Finding]:
        """What is wrong in its chunks."""


class PayloadRules(Protocol):
    """What is asked of a family to judge payloads: its module `rules`."""

    VERDICTS: Mapping[str, type[FileError]]
    """The verdict on each of its rules."""

    def open_payload(self, content: Bytes) -> OpenPayload:
        """The payload in these bytes. Raises a FileError with the rule that its descriptor breaks."""


def rules_at(content: memoryview, offset: int) -> PayloadRules:
    """The rules of the family of the payload at an offset."""
    return cast(PayloadRules, part(family_at(bytes(content[offset : offset + 16])).name, "stages.rules"))


def verdict_of(rule: str) -> type[FileError] | None:
    """The verdict on a rule of a family; None where no family has it."""
    known = [cast(PayloadRules, rules).VERDICTS for rules in parts("stages.rules")]
    return next((verdicts[rule] for verdicts in known if rule in verdicts), None)


def judge_payloads(
    facts: Facts, header: Header, content: memoryview, *, is_sound: bool, values: bool
) -> Iterator[Finding]:
    """Findings about the keys, about every payload of this file, and with `values` about its chunks.

    facts: of the whole model.
    header, content: of the file.
    is_sound: whether the layout is valid, so that tensors are where the header says.
    values: whether to check chunks.
    """
    if not any(key in facts.metadata for key in (MUST_UNDERSTAND_KEY, PAYLOADS_KEY)):
        return
    encodings, names = (strings_under(facts.metadata, key) for key in (MUST_UNDERSTAND_KEY, PAYLOADS_KEY))
    if encodings is None or names is None:
        key = MUST_UNDERSTAND_KEY if encodings is None else PAYLOADS_KEY
        yield facts.about_key(
            "E-101", "the keys of payloads must be arrays of strings, and both present", key
        )
        return
    unknown = [name for name in encodings if not _is_known(name)]
    for name in unknown[:1]:
        yield facts.about_key(
            "E-103", "an encoding unknown to this version", MUST_UNDERSTAND_KEY, quoted(name)
        )
    wanted = set(names)
    yield from _judge_tensors(facts, wanted)
    if unknown or not is_sound:
        return
    found: set[str] = set()
    n_read = 0
    for i, tensor in enumerate(header.tensors):
        if tensor.name not in wanted or tensor.type_id != _I8 or len(tensor.dims) != 1:
            continue
        start = header.data_offset + tensor.offset
        try:
            payload = rules_at(content, start).open_payload(
                np.frombuffer(content, np.uint8, tensor.n_weights, start)
            )
        except FileError as error:
            yield _moved(error.finding, i, start)
            continue
        n_read += 1
        found.add(payload.encoding.name)
        for finding in payload.judge() if values else ():
            yield _moved(finding, i, start)
    said = set(encodings)
    if n_read == len(wanted) and found != said:
        message = "the encodings in the key are not those of the payloads"
        yield facts.about_key("E-104", message, MUST_UNDERSTAND_KEY, sorted(said), sorted(found))


def decoded(facts: Facts, files: Iterable[tuple[Header, memoryview]]) -> Facts:
    """The facts with the shapes of decoded payloads, without payloads whose descriptor is not valid.

    files: the readable files of the model, with their content.
    """
    wanted = payload_names(facts.metadata)
    if not wanted:
        return facts
    shapes: dict[str, tuple[int, ...]] = {}
    for header, content in files:
        for tensor in header.tensors:
            if tensor.name in wanted:
                start = header.data_offset + tensor.offset
                with contextlib.suppress(FileError):
                    shapes[tensor.name] = form_at(content, start)[1]
    kept = {name: entry for name, entry in facts.tensors.items() if name not in wanted or name in shapes}
    tensors = {
        name: (replace(tensor, dims=shapes[name][::-1]) if name in shapes else tensor, path)
        for name, (tensor, path) in kept.items()
    }
    return replace(facts, tensors=tensors)


def _judge_tensors(facts: Facts, wanted: set[str]) -> Iterator[Finding]:
    """E-102: each payload exists and is stored as bytes in one dimension."""
    for name in sorted(wanted):
        if name not in facts.tensors:
            if facts.tensors:  # no tensors are known if a shard cannot be read
                message = (
                    f"there is no tensor {quoted(name)}; where a tool removed it on purpose, "
                    "`gguflow convert FILE -t copy` names those that are left"
                )
                yield facts.about_key("E-102", message, PAYLOADS_KEY)
            continue
        tensor, _ = facts.tensors[name]
        if tensor.type_id != _I8 or len(tensor.dims) != 1:
            yield facts.about_tensor(
                "E-102",
                f"tensor {quoted(name)} cannot hold a payload",
                name,
                f"type {tensor.type_id}",
                "I8 in one dimension",
            )


def _is_known(name: str) -> bool:
    try:
        return find_encoding(name) is not None
    except GguflowError:
        return False


def _moved(finding: Finding, i: int, start: int) -> Finding:
    """A finding about a payload as a finding about its file."""
    offset = None if finding.offset is None else start + finding.offset
    return replace(finding, path=f"$.tensors[{i}].data{finding.path.removeprefix('$')}", offset=offset)
