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
import pkgutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from gguflow._version import __version__
from gguflow.arguments import suggestion
from gguflow.cli import streams
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
    try:
        with streams.guarded(), _interruptible() as interruptions:
            return _run(argv, interruptions)
    except streams.ReaderGone:
        return int(ExitStatus.OK)
    except GguflowError as error:  # stdout, flushed at last
        with streams.guarded():
            return _failed(str(error), error.exit_status)
    except KeyboardInterrupt:  # before the command began, or after it ended
        with streams.guarded():
            return _failed("interrupted", ExitStatus.INTERRUPTED)


def _run(argv: Sequence[str] | None, interruptions: _Interruptions) -> int:
    """Parse the arguments, and run their command."""
    hint = ""
    try:
        arguments = _parse(argv)
        command = commands()[arguments.command]
        hint = "; run the same command again to resume" if command.resumes else ""
        status = command.run(arguments)
        sys.stdout.flush()
        return int(status or ExitStatus.OK)
    except GguflowError as error:
        return _failed(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _failed(f"interrupted{hint}", ExitStatus.INTERRUPTED)
    except MemoryError as error:
        said = f" ({error})" if str(error) else ""
        advice = "; a smaller --memory-limit or fewer --threads need less" if hint else ""
        return _failed(f"out of memory{said}{advice}{hint}", ExitStatus.FAILED)
    except OSError as error:
        return _failed(str(error), ExitStatus.IO)
    except RuntimeError:
        if not interruptions.came:
            raise
        return _failed(f"interrupted{hint}", ExitStatus.INTERRUPTED)  # in the midst of a lock, twice


def _failed(message: str, status: ExitStatus) -> int:
    print("gguflow: " + printable(message, keep="\n"), file=sys.stderr)
    return int(status)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; for an unknown option, name the command's option that is closest to it."""
    arguments, unknown = parser().parse_known_args(argv)
    if unknown:
        options = (word.split("=")[0] for word in unknown if word.startswith("-"))
        hints = (suggestion(option, arguments.parser.option_names()) for option in options)
        hint = next(filter(None, hints), "")
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return arguments


_IMPATIENCE = 1.0
"""Seconds after an interruption in which others say nothing new, and must not disturb how the first one ends
the command.
"""


class _Interruptions:
    """The handler of Ctrl-C and SIGTERM: raises KeyboardInterrupt, once for several in quick succession."""

    def __init__(self) -> None:
        self.last: float | None = None

    @property
    def came(self) -> bool:
        """Whether there was one."""
        return self.last is not None

    def __call__(self, signum: int, frame: object) -> None:
        now = time.monotonic()
        if self.last is None or now - self.last > _IMPATIENCE:
            self.last = now
            raise KeyboardInterrupt


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interruptions]:
    """Let SIGTERM end a command as Ctrl-C does, with everything cleaned up, and either of them only once."""
    interruptions = _Interruptions()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if previous[signal.SIGINT] is not signal.default_int_handler:  # ignored, or the caller's own
        del previous[signal.SIGINT]
    try:
        for number in previous:
            signal.signal(number, interruptions)
    except ValueError:  # not in the main thread
        yield interruptions
        return
    try:
        yield interruptions
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
