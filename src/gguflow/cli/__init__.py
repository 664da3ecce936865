"""The command line: finds the commands, runs one, and turns errors into exit codes.

Each command is a module of this package with a `COMMAND` in it, and is found by listing the package; the
other modules hold what commands share. All of them import what is slow to load inside functions, so that
`gguflow --help` is quick.

Results go to stdout; everything for people (progress, summaries, errors) goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from gguflow._version import __version__
from gguflow.arguments import suggestion
from gguflow.cli.command import Command
from gguflow.cli.parsing import HelpFormatter, Parser
from gguflow.errors import ExitStatus, GguflowError, printable

_DESCRIPTION = "Convert safetensors to GGUF in one streaming pass; inspect, check and run GGUF files."

_EPILOG = """\
`gguflow COMMAND --help` explains a command.

exit codes: 0 done; 1 failed; 2 wrong usage; 3 a file that is malformed, invalid, unsupported or over a limit;
4 I/O error (disk full, permission denied); 130 interrupted.

Kernels are compiled at first use and cached; GGUFLOW_CACHE_DIR sets the directory of the cache."""


@functools.cache
def commands() -> Mapping[str, Command]:
    """All commands by name, in the order in which --help lists them."""
    found: list[Command] = []
    for info in pkgutil.iter_modules(__path__):
        command = getattr(importlib.import_module(f"{__name__}.{info.name}"), "COMMAND", None)
        if isinstance(command, Command):
            found.append(command)
    return {command.name: command for command in sorted(found, key=lambda command: command.order)}


def parser() -> Parser:
    """The whole command line as an argparse parser."""
    top = Parser(prog="gguflow", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=HelpFormatter)
    top.add_argument("--version", action="version", version=f"gguflow {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in commands().values():
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=command.epilog,
            formatter_class=HelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(parser=subparser)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Errors that are not the package's own are bugs, and show a
    traceback.

    argv: the arguments after the program's name; by default those of the process.
    """
    arguments = _parse(argv)
    command = commands()[arguments.command]
    try:
        with _sigterm_as_interrupt():
            status = command.run(arguments)
            sys.stdout.flush()
    except GguflowError as error:
        print("gguflow: " + printable(str(error), keep="\n"), file=sys.stderr)
        return int(error.exit_status)
    except KeyboardInterrupt:
        hint = "; run the same command again to resume" if command.resumes else ""
        print(f"gguflow: interrupted{hint}", file=sys.stderr)
        return int(ExitStatus.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitStatus.OK)
    return int(status or ExitStatus.OK)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; for an unknown option, name the command's option that is closest to it."""
    arguments, unknown = parser().parse_known_args(argv)
    if unknown:
        options = (word.split("=")[0] for word in unknown if word.startswith("-"))
        hints = (suggestion(option, arguments.parser.option_names()) for option in options)
        hint = next(filter(None, hints), "")
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return arguments


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, with everything cleaned up."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
