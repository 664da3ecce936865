"""How many findings about one file are kept: a hostile one could have millions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from gguflow.errors import Finding

MAX_FINDINGS = 1000
"""Errors of a file that are listed, and warnings."""


def bounded(findings: Iterable[Finding], most: int) -> Iterator[Finding]:
    """The first errors and the first warnings, in their order; judging ends with the last of these errors.

    findings: as they are made.
    most: errors that are given, and warnings.
    """
    given: Counter[str] = Counter()
    for finding in findings:
        given[finding.severity] += 1
        if given[finding.severity] <= most:
            yield finding
        if given["error"] == most:
            return


def with_notes(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first MAX_FINDINGS errors and warnings, and a finding at the end where there are more.

    findings: as they are made; no more errors are asked for than it takes to know that there are more.
    """
    given: Counter[str] = Counter()
    for finding in bounded(findings, MAX_FINDINGS + 1):
        given[finding.severity] += 1
        if given[finding.severity] <= MAX_FINDINGS:
            yield finding
    if given["warning"] > MAX_FINDINGS:
        message = f"there are more warnings; the first {MAX_FINDINGS:,} are listed"
        yield Finding("P-009", message, severity="warning")
    if given["error"] > MAX_FINDINGS:
        message = (
            f"there are more errors; the first {MAX_FINDINGS:,} are listed, and what follows is not judged"
        )
        yield Finding("P-009", message, severity="warning")
