"""`gguflow architectures`."""

from __future__ import annotations

import argparse

from gguflow.cli.command import Command
from gguflow.cli.options import print_json
from gguflow.cli.text import table

_DESCRIPTION = """\
List the model classes that `gguflow convert` knows, as config.json names them under "architectures", with
the architecture of the GGUF file (general.architecture) that each becomes. A class that is not in the list
is refused: it is not guessed."""

TITLES = ("architecture", "classes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument("--json", action="store_true", help="print the list as JSON: architectures by class")


def run(arguments: argparse.Namespace) -> None:
    """Print all classes.

    arguments: the parsed command line.
    """
    if arguments.json:
        print_json(by_class())
    else:
        rows = rows_of_table()
        n_classes = len(by_class())
        print(table(TITLES, rows) + f"\n\n{n_classes} classes, {len(rows)} architectures")


def by_class() -> dict[str, str]:
    """The architecture of each class, in the order of the classes' names. Where config.json decides between
    several, the most general.
    """
    from gguflow.models import architectures

    known = sorted(architectures().items())
    return {name: family.name for name, family in known if not family.is_unnamed}


def rows_of_table() -> list[tuple[str, str]]:
    """The classes of each architecture, in the order of the architectures' names."""
    classes: dict[str, list[str]] = {}
    for name, architecture in by_class().items():
        classes.setdefault(architecture, []).append(name)
    return [(name, ", ".join(found)) for name, found in sorted(classes.items())]


COMMAND = Command(
    name="architectures",
    order=85,
    summary="list the model classes that can be converted",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
