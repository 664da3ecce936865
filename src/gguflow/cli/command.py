"""What a command is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gguflow.errors import ExitStatus


@dataclass(frozen=True)
class Command:
    """A command of `gguflow`.

    name: the word on the command line.
    order: its place in the list of commands, the smallest first.
    summary: its line in `gguflow --help`.
    description: the text above its options in `gguflow NAME --help`, laid out by `parsing.HelpFormatter`.
    add_arguments: adds its arguments to a parser.
    run: carries it out. Raises errors of the package, which become exit codes; returns None for OK.
    epilog: the text below its options, for examples.
    resumes: whether running it again after an interruption goes on from where it stopped.
    elsewhere: options that another program has in its place, and what to use instead of each.
    """

    name: str
    order: int
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], ExitStatus | None]
    epilog: str = ""
    resumes: bool = False
    elsewhere: Mapping[str, str] = field(default_factory=dict)
