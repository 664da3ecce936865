"""Checks a file against the rules; every broken one is a Finding.

The rules are in spec/container.md (C, G, V), spec/integrity.md (I), spec/rows.md (R) and spec/sources.md (S,
J). What each level checks:

    structure   header, metadata, tensor table, layout, shards, meaning, integrity keys, descriptors of
                payloads; no other tensor data
    values      also every block, every chunk of a payload or row, the padding between tensors, and the
                digests of both
    strict      also the canonical form, the grammar, every token

A file that does not parse, or passes a limit, has one finding, the first: what follows is not read. Of any
other file the first 1,000 errors and the first 1,000 warnings are given, and a last finding says that there
are more (P-009).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gguflow.arguments import choice, file_path, instance
from gguflow.blocks import block_sizes
from gguflow.container.header import Header
from gguflow.container.limits import DEFAULT_LIMITS, Limits
from gguflow.container.reader import open_file
from gguflow.container.row_store import is_row_store
from gguflow.container.rules import error_class, judge
from gguflow.container.shards import judge_keys, n_shards
from gguflow.container.verification import check_set
from gguflow.errors import FileError, Finding, gathered_warnings
from gguflow.platform import storage_errors
from gguflow.rows.judging import TAIL, judge_chunks, judge_rows
from gguflow.threads import resolve as resolve_threads
from gguflow.validation.bounds import MAX_FINDINGS, LeftOut, bounded, with_notes
from gguflow.validation.chat_template import judge_chat_templates, judge_checkpoint
from gguflow.validation.meaning import judge_meaning
from gguflow.validation.model import Facts
from gguflow.validation.payloads import decoded, judge_payloads, verdict_of
from gguflow.validation.shards import Shard, is_first, judge_shards
from gguflow.validation.values import judge_values

LEVELS = ("structure", "values", "strict")

_GRAVEST_FIRST = ("malformed", "invalid", "unsupported", "limit")


def validate(
    path: str | os.PathLike[str],
    level: str = "structure",
    *,
    limits: Limits = DEFAULT_LIMITS,
    threads: int | None = None,
) -> list[Finding]:
    """The rules that a GGUF or safetensors file breaks, in the order of the file; [] for a valid one.

    A first shard is checked together with its siblings, a safetensors index or a checkpoint's directory with
    its shards. Findings of severity "warning" do not make a file invalid.

    path: the file, index or directory.
    level: "structure", "values" or "strict".
    limits: the sizes that are accepted.
    threads: number of threads for values; None for all processors.

    Raises UsageError for an unknown level, StorageError if the file cannot be read; no other errors,
    regardless of the file's content.
    """
    return examine(path, level, limits=limits, threads=threads)[1]


def examine(
    path: str | os.PathLike[str],
    level: str = "structure",
    *,
    limits: Limits = DEFAULT_LIMITS,
    threads: int | None = None,
) -> tuple[str, list[Finding]]:
    """As `validate`, with a verdict: "valid", "malformed", "invalid", "unsupported" or "limit"."""
    choice(level, "level", LEVELS)
    threads = resolve_threads(threads)
    limits = instance(limits, "limits", Limits)
    path = file_path(path, "path")
    with storage_errors("read", path):
        is_directory = path.is_dir()
    try:
        if is_directory or path.name.endswith((".safetensors", ".index.json")):
            from gguflow.sources import open_checkpoint

            with gathered_warnings() as said:
                directory = open_checkpoint(path).directory
                judge_checkpoint(directory) if directory is not None else None
            return "valid", [warning.finding for warning in said]
        opened = open_file(path, limits=limits)
    except FileError as error:
        return error.verdict, [error.finding]
    left_out: LeftOut = Counter()
    judged = judge_gguf(path, opened.file.map_all(), opened.header, level, limits, threads, left_out)
    findings = list(with_notes(judged, left_out))
    if is_first(opened.header):
        findings += judge_chat_templates(Facts.of(opened.header))
    return _verdict(findings), findings


def judge_gguf(
    path: Path,
    content: memoryview,
    header: Header,
    level: str,
    limits: Limits,
    threads: int | None,
    left_out: LeftOut | None = None,
) -> Iterator[Finding]:
    """The findings about a header that parsed, and about the content after it.

    path: for the file's name, and to find its siblings.
    left_out: counts the warnings that are not given.
    """
    structure = [
        *bounded(judge(header, block_sizes, len(content), limits), MAX_FINDINGS + 1, left_out),
        *judge_keys(header, path),
    ]
    if not _has_error(structure):
        structure += judge_rows(header, len(content), strict=level == "strict")
    yield from structure
    is_sound = not _has_error(finding for finding in structure if finding.rule != TAIL)
    of_digests = list(check_set(header, content))
    yield from of_digests
    facts, shards = Facts.of(header), [Shard(path, header, content)]
    if n_shards(header) > 1 and is_first(header):
        facts = Facts(header.metadata, {}, header.key_positions)
        if is_sound:
            of_set, shards, facts = judge_shards(shards[0])
            yield from of_set
    if is_first(header):
        files = [(shard.header, shard.content) for shard in shards] if is_sound else []
        yield from judge_meaning(facts, decoded(facts, files), strict=level == "strict")
        if is_row_store(header.metadata):
            yield from judge_chunks(header, content) if is_sound and level != "structure" else ()
        else:
            yield from judge_payloads(facts, header, content, is_sound=is_sound, values=level != "structure")
    if level != "structure" and is_sound:  # otherwise the positions of blocks are unknown
        yield from judge_values(
            content, header, block_sizes, strict=level == "strict", digests=not of_digests, threads=threads
        )
    if level == "strict" and is_sound:
        from gguflow.validation.canonical import judge_canonical

        yield from judge_canonical(content, header, block_sizes)


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def error_class_of(rule: str) -> type[FileError]:
    """What breaking a rule is, of whatever part of the specification."""
    return verdict_of(rule) or error_class(rule)


def _verdict(findings: Sequence[Finding]) -> str:
    """The most severe class among the errors; "valid" if there are none."""
    found = {error_class_of(finding.rule).verdict for finding in findings if finding.severity == "error"}
    return next((verdict for verdict in _GRAVEST_FIRST if verdict in found), "valid")
