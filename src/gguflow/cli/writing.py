"""What `convert` and `export` share: the options of a conversion that is carried out, the run, its report."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from gguflow.cli import progress
from gguflow.cli.options import add_io, add_threads, parse_size, print_json
from gguflow.cli.text import nbytes_text, path_text, table, warnings_data
from gguflow.errors import FileWarning, printable

if TYPE_CHECKING:
    from gguflow.conversion import Prepared, Report

_WORTHWHILE_RATIO = 1.05
"""How many times smaller entropy coding must make weights to be worth slower decoding."""


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `write` needs."""
    add_threads(parser)
    parser.add_argument(
        "--memory-limit",
        default="192M",
        metavar="SIZE",
        help="limit for all buffers together: bytes, or a number with K, M or G (default: %(default)s)",
    )
    add_io(parser)
    parser.add_argument(
        "--no-resume", action="store_true", help="start over, and discard what an interrupted run left"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="show no progress, no summary and no warnings"
    )


def write(prepared: Prepared, arguments: argparse.Namespace) -> None:
    """Carry out a conversion or an export; print a summary, and the files or the report.

    prepared: what to write.
    arguments: the options of `add_writing_options`, and --json.
    """
    from gguflow import conversion

    run = functools.partial(
        conversion.run,
        prepared,
        threads=arguments.threads,
        memory_limit=parse_size(arguments.memory_limit),
        overwrite=arguments.overwrite,
        resume=not arguments.no_resume,
        io=arguments.io,
    )
    show_warnings(prepared.warnings, arguments)
    if arguments.quiet:
        reports = run()
    else:
        with progress.shown([plan for target in prepared.targets for plan in target.plans]) as callback:
            reports = run(progress=callback)
        print("\n\n".join(map(report_text, reports)), file=sys.stderr)
    show_warnings(reports[0].warnings[len(prepared.warnings) :], arguments)
    print_notes(note for report in reports for note in report.notes)
    if arguments.json:
        print_json(*map(report_data, reports))
    else:
        print(*(path_text(file) for report in reports for file in report.files), sep="\n")


def show_warnings(warnings: Sequence[FileWarning], arguments: argparse.Namespace) -> None:
    """Print warnings to stderr, unless --quiet is given.

    warnings: about the source.
    arguments: the options of `add_writing_options`.
    """
    for warning in () if arguments.quiet else warnings:
        print(f"gguflow: warning: {printable(str(warning))}", file=sys.stderr)


def report_data(report: Report) -> dict[str, Any]:
    """What a conversion did, as JSON-ready data.

    report: of one target.
    """
    return {
        **asdict(replace(report, warnings=())),
        "output": str(report.output),
        "files": list(map(str, report.files)),
        "warnings": warnings_data(report.warnings),
    }


def print_notes(notes: Iterable[str]) -> None:
    """Say what a file that was replaced could not hand down.

    notes: sentences.
    """
    for note in notes:
        print(f"gguflow: {printable(note)}", file=sys.stderr)


def report_text(report: Report) -> str:
    """What a conversion did: a line for each format, the sizes before and after, the time.

    report: of one target.
    """
    rows = [
        (
            name,
            str(total.n_tensors),
            f"{total.n_weights:,}",
            f"{8 * total.nbytes / max(total.n_weights, 1):g}",
            nbytes_text(total.nbytes),
        )
        for name, total in report.formats.items()
    ]
    weights_per_second = report.n_weights / max(report.seconds, 1e-9)
    sizes = f"{nbytes_text(report.source_nbytes)} -> {nbytes_text(report.nbytes)}"
    method = "" if report.method == "ggml" else f", --method {report.method}"
    pace = f"{report.seconds:.2f} s, {weights_per_second / 1e6:.0f} M weights/s"
    return (
        table(("format", "tensors", "weights", "bits/weight", "size"), rows, right=(1, 2, 3, 4))
        + f"\n{sizes}, {report.bits_per_weight:.3f} bits per weight{method}; {pace}"
        + _coding_text(report)
    )


def _coding_text(report: Report) -> str:
    """What entropy coding saved, "" without any."""
    if report.coded is None:
        return ""
    before, after = report.coded
    ratio = before / max(after, 1)
    verdict = (
        "" if ratio >= _WORTHWHILE_RATIO else "; hardly worth the slower decoding: consider omitting +zstd"
    )
    sizes = f"{nbytes_text(before)} -> {nbytes_text(after)}"
    return f"\nentropy coding: {sizes}, {ratio:.2f} times smaller{verdict}"
