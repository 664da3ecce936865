"""How many findings about one file are kept: a hostile one could have millions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from gguflow.errors import Finding

MAX_FINDINGS = 1000
"""Errors of a file that are listed, and warnings."""


LeftOut = Counter[str]
"""How many findings of each severity were made and not given."""


def bounded(findings: Iterable[Finding], most: int, left_out: LeftOut | None = None) -> Iterator[Finding]:
    """The first errors and the first warnings, in their order; judging ends with the last of these errors.

    findings: as they are made.
    most: errors that are given, and warnings.
    left_out: counts the others.
    """
    given: Counter[str] = Counter()
    for finding in findings:
        given[finding.severity] += 1
        if given[finding.severity] <= most:
            yield finding
        elif left_out is not None:
            left_out[finding.severity] += 1
        if given["error"] == most:
            return


def with_notes(findings: Iterable[Finding], left_out: LeftOut) -> Iterator[Finding]:
    """The first MAX_FINDINGS errors and warnings, and a finding at the end where there are more.

    findings: as they are made; no more errors are asked for than it takes to know that there are more.
    left_out: the number of findings that were not given to this function, when all others were.
    """
    given: Counter[str] = Counter()
    for finding in bounded(findings, MAX_FINDINGS + 1, left_out):
        given[finding.severity] += 1
        if given[finding.severity] <= MAX_FINDINGS:
            yield finding
    is_cut = given["error"] > MAX_FINDINGS
    if given["warning"] > MAX_FINDINGS:
        n_more = given["warning"] - MAX_FINDINGS + left_out["warning"]
        more = "there are more warnings" if is_cut else f"and {n_more:,} more warnings"
        message = f"{more}; the first {MAX_FINDINGS:,} are listed"
        yield Finding("P-009", message, severity="warning")
    if is_cut:
        message = (
            f"there are more errors; the first {MAX_FINDINGS:,} are listed, and what follows is not judged"
        )
        yield Finding("P-009", message, severity="warning")
