"""What `gguflow validate` says of one file: a verdict, the findings, an exit status; as text for people, as
plain data for JSON.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from gguflow.errors import ExitStatus, Finding, StorageError
from gguflow.validation import examine

_LONGEST = 2000
"""Characters of a value from a file that a report repeats."""


@dataclass(frozen=True)
class Report:
    """One file examined. verdict: "valid", or what is wrong with it: "malformed", "invalid", "unsupported",
    "limit", "io".
    """

    file: str
    verdict: str
    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> ExitStatus:
        if self.verdict == "io":
            return ExitStatus.IO
        return ExitStatus.OK if self.verdict == "valid" else ExitStatus.INVALID_FILE

    def data(self) -> dict[str, Any]:
        """JSON-ready: file, verdict, and of each finding rule, severity, path, offset, found, expected,
        message.
        """
        return {
            "file": self.file,
            "verdict": self.verdict,
            "findings": [_finding_data(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """A line for the file, a line for each finding."""
        n_warnings = sum(finding.severity != "error" for finding in self.findings)
        with_warnings = f", {n_warnings} warning{'s' if n_warnings > 1 else ''}" if n_warnings else ""
        return "\n".join(
            [
                f"{self.file}: {self.verdict}{with_warnings}",
                *(f"  {finding.severity} {finding}" for finding in self.findings),
            ]
        )


def report(path: str | os.PathLike[str], level: str, *, threads: int | None = None) -> Report:
    """Examine a file; one that cannot be read has the verdict "io". Raises UsageError for an unknown level."""
    file = os.fspath(path)
    try:
        return Report(file, *_frozen(examine(path, level, threads=threads)))
    except StorageError as error:
        return Report(file, "io", (Finding("IO", str(error)),))


def _frozen(examined: tuple[str, list[Finding]]) -> tuple[str, tuple[Finding, ...]]:
    return examined[0], tuple(examined[1])


def _finding_data(finding: Finding) -> dict[str, Any]:
    fields = {key: _plain(value) for key, value in asdict(finding).items()}
    return {
        key: fields[key] for key in ("rule", "severity", "path", "offset", "found", "expected", "message")
    }


def _plain(value: Any) -> Any:
    """As JSON has it, and as any terminal or encoder takes it: no bytes, no lone surrogates, nothing that is
    not finite.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
