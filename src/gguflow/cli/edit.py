"""`gguflow edit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gguflow.cli.command import Command
from gguflow.cli.options import add_threads
from gguflow.cli.text import path_text, table, value_text, value_type_text
from gguflow.cli.writing import print_notes
from gguflow.errors import printable

if TYPE_CHECKING:
    from gguflow.container.metadata import Value

_DESCRIPTION = """\
Change the metadata of a GGUF file: a chat template or the id of a special token, for example. FILE is
replaced in one step, or OUT is written; weights are copied unchanged. If the command fails or is stopped
(Ctrl-C, a full disk), FILE stays as it was. FILE keeps its owner, mode and extended attributes. If it has
integrity keys, its data is verified while it is copied, and the keys are updated. Keys that another tool has
made stale by rewriting the file are removed, with a warning; --renew-integrity computes them anew.

TYPE is u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool (true or false) or str; arr[str], or arr of
another of them, is an array, and VALUE then JSON: 'general.tags=arr[str]:["code","chat"]'. If a str VALUE has
the form @PATH, the value is read from that file (at most 64 MiB), and so is an array; @@ stands for a literal
@. An edit that would
break a rule of the format is refused, and so are edits of general.alignment and of keys that begin with
"gguflow."."""

_EPILOG = """\
examples:
  gguflow edit model.gguf --set tokenizer.ggml.eos_token_id=u32:128009
  gguflow edit model.gguf --set tokenizer.chat_template=str:@template.jinja -o fixed.gguf
  gguflow edit model.gguf --remove tokenizer.chat_template --set general.name=str:Plain"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument("file", metavar="FILE", help="a .gguf file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=TYPE:VALUE",
        help="add a key or change its value; may be repeated",
    )
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="KEY",
        help="remove an existing key; may be repeated",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="write OUT, and leave FILE as it is")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--no-integrity", action="store_true", help="omit the integrity keys, and do not verify the data"
    )
    parser.add_argument(
        "--renew-integrity",
        action="store_true",
        help="compute the integrity keys anew from FILE as it is: of one that another tool has rewritten, or "
        "that has none; no other change is needed",
    )
    add_threads(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show the changes")


def run(arguments: argparse.Namespace) -> None:
    """Edit the metadata of a file, and print what changed.

    arguments: the parsed command line.
    """
    from gguflow import editing

    edited = editing.edit(
        arguments.file,
        [editing.parse_assignment(text) for text in arguments.set],
        arguments.remove,
        output=arguments.output,
        overwrite=arguments.overwrite,
        integrity=not arguments.no_integrity,
        renew_integrity=arguments.renew_integrity,
        threads=arguments.threads,
    )
    if not arguments.quiet:
        print(changes_text(edited.changes), file=sys.stderr)
    print_notes(edited.notes)
    print(path_text(edited.output))


def changes_text(changes: Iterable[tuple[str, Value | None, Value | None]]) -> str:
    """What an edit changed, as a table.

    changes: key, old value and new value (None for none).
    """

    def shown(value: Value | None) -> str:
        return "-" if value is None else f"{value_type_text(value)} {value_text(value)}"

    rows = [(printable(key), shown(old), shown(new)) for key, old, new in changes]
    return table(("key", "old value", "new value"), rows)


COMMAND = Command(
    name="edit",
    order=60,
    summary="change the metadata of a GGUF file",
    description=_DESCRIPTION,
    epilog=_EPILOG,
    add_arguments=add_arguments,
    run=run,
)
