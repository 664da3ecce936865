"""argparse with help that fits the terminal, and with a suggestion for a misspelt word."""

from __future__ import annotations

import argparse
import itertools
import re
import textwrap
from typing import Any, NoReturn

from gguflow.arguments import suggestion

_MIN_SECOND_COLUMN = 24
"""Columns that the explanation in a list needs beside its term; with fewer, it goes below."""
_KEPT_TOGETHER = re.compile(r"""(?<= )-\S+ (?:[^-\s"']\S*|"[^"]*"|'[^']*')|"[^"]*"|'[^']*'""")
"""In a command: an option with its value, a quoted word."""


class HelpFormatter(argparse.HelpFormatter):
    """Lays text out for the width of the terminal.

    Lines that begin in the first column are a paragraph, and wrapped together. Indented lines (examples,
    lists) stay lines of their own; `wrap_line` wraps those that are too long.
    """

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # argparse forgets that the commands are indented
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_indented, group in itertools.groupby(text.splitlines(), lambda line: line[:1] in ("", " ")):
            if is_indented:
                lines += itertools.chain.from_iterable(wrap_line(line, width) for line in group)
            else:
                lines += _wrap(" ".join(group), width)
        return "\n".join(lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(" ".join(text.split()), width)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that suggests the right word for a misspelt command or choice."""

    def option_names(self) -> list[str]:
        """All options, in all their spellings."""
        return [name for action in self._actions for name in action.option_strings]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            self._reject(action, value, [str(choice) for choice in action.choices])

    def _reject(self, action: argparse.Action, value: Any, choices: list[str]) -> NoReturn:
        hint = suggestion(str(value), choices)
        known = f" (choose from {', '.join(choices)})"
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"unknown command {value!r}{hint or known}")
        raise argparse.ArgumentError(action, f"invalid choice {value!r}{known}{hint}")


def wrap_line(line: str, width: int) -> list[str]:
    """One indented line as lines of at most `width` columns, unless a single word is longer.

    A command goes on after a backslash, with options and their values kept together. In a list of `term
    explanation` (two spaces or more between them), the explanation goes on below itself.

    line: spaces, then a command that starts with "gguflow", an item of a list, or any text.
    width: columns.
    """
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    if line.startswith(f"{indent}gguflow "):
        joined = _KEPT_TOGETHER.sub(lambda match: match[0].replace(" ", "\xa0"), line)
        lines = [part.replace("\xa0", " ") for part in _wrap(joined, width - 2, indent + "    ")]
        return [f"{part} \\" for part in lines[:-1]] + lines[-1:]
    item = re.match(r" *\S+ {2,}", line)
    if item is None:
        return _wrap(line, width, indent + ("# " if line.startswith(f"{indent}# ") else "  "))
    if width - item.end() >= _MIN_SECOND_COLUMN:
        return _wrap(line, width, " " * item.end())
    below = indent + "    "
    return [item[0].rstrip(), *_wrap(below + line[item.end() :], width, below)]


def _wrap(text: str, width: int, subsequent_indent: str = "") -> list[str]:
    """Options keep their hyphens: lines are broken at spaces only."""
    return textwrap.wrap(
        text, width, subsequent_indent=subsequent_indent, break_on_hyphens=False, break_long_words=False
    )
