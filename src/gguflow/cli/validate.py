"""`gguflow validate`."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from typing import Any

from gguflow.cli.command import Command
from gguflow.cli.options import add_threads
from gguflow.cli.text import finding_data
from gguflow.errors import ExitStatus, Finding, StorageError, printable

_DESCRIPTION = """\
Check files against the rules of their format. Every broken rule is reported: where, what was found, and
what was expected. FILE is a GGUF file (a first shard is checked together with the other shards), a
.safetensors file, or a safetensors checkpoint.

Levels:
  structure  checks the header, the tensor table, the layout and the meaning of the metadata; reads no weights
  values     also checks every block (scales that are not finite, reserved codes), the padding and the digests
  strict     also requires the canonical form

A file that has only warnings is valid."""

_EPILOG = """\
examples:
  # takes milliseconds, whatever the size of the file
  gguflow validate model.gguf
  # check every block of every file, and print JSON
  gguflow validate *.gguf --level values --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument("files", metavar="FILE", nargs="+", help=".gguf or .safetensors files")
    parser.add_argument(
        "--level",
        choices=("structure", "values", "strict"),
        default="structure",
        help="how thoroughly to check (default: %(default)s)",
    )
    add_threads(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per file and line: verdict and findings"
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Check files and print what is wrong with them; the status of the worst.

    arguments: the parsed command line.
    """
    worst = ExitStatus.OK
    for file in arguments.files:
        result = report(file, arguments.level, threads=arguments.threads)
        print(json.dumps(result.data()) if arguments.json else result.text())
        worst = max(worst, result.exit_status)
    return worst


@dataclass(frozen=True)
class Report:
    """What was found in a file.

    file: its path.
    verdict: "valid", or what is wrong with it: "malformed", "invalid", "unsupported", "limit", "io".
    findings: the broken rules.
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
        """The report as JSON-ready data."""
        return {
            "file": self.file,
            "verdict": self.verdict,
            "findings": [finding_data(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """A line for the file, a line for each finding; what comes from files makes no line of its own."""
        n_warnings = sum(finding.severity != "error" for finding in self.findings)
        with_warnings = f", {n_warnings} warning{'s' if n_warnings > 1 else ''}" if n_warnings else ""
        return "\n".join(
            [
                f"{printable(self.file)}: {self.verdict}{with_warnings}",
                *(f"  {finding.severity} {finding}" for finding in self.findings),
            ]
        )


def report(path: str | os.PathLike[str], level: str, *, threads: int | None = None) -> Report:
    """Check a file; one that cannot be read has the verdict "io".

    path: the file.
    level: "structure", "values" or "strict".
    threads: number of threads; None for all processors.
    Raises UsageError for an unknown level.
    """
    from gguflow.validation import examine

    file = os.fspath(path)
    try:
        verdict, findings = examine(path, level, threads=threads)
    except StorageError as error:
        return Report(file, "io", (Finding("IO", str(error)),))
    return Report(file, verdict, tuple(findings))


COMMAND = Command(
    name="validate",
    order=50,
    summary="check files against the rules of their format",
    description=_DESCRIPTION,
    epilog=_EPILOG,
    add_arguments=add_arguments,
    run=run,
)
