"""Which lines of a parser a fuzzer reached, without a package for it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

Line = tuple[str, int]
"""A file, and a line of it, counted from 1."""


class LineCoverage:
    """Collects the lines of some functions that are executed.

    parsers: the functions and classes by the name of their module; of a module without any, all.
    """

    def __init__(self, parsers: Mapping[str, Sequence[str]]) -> None:
        self.lines: set[Line] = set()
        self.reached: set[Line] = set()
        for module_name, names in parsers.items():
            module = importlib.import_module(module_name)
            file = str(module.__file__)
            whole = compile(inspect.getsource(module), file, "exec")
            for name, code in _functions(whole):
                if not names or any(name == wanted or name.startswith(f"{wanted}.") for wanted in names):
                    self.lines |= {(file, line) for _, _, line in code.co_lines() if line is not None}
        self._files = {file for file, _ in self.lines}

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Watch what is executed inside, in this thread."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    @property
    def missed(self) -> list[Line]:
        return sorted(self.lines - self.reached)

    @property
    def share(self) -> float:
        """The share of the lines that were reached, from 0 to 1."""
        return len(self.lines & self.reached) / len(self.lines)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        return self._line(frame, event, argument)

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.reached.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def _functions(code: CodeType, prefix: str = "") -> Iterator[tuple[str, CodeType]]:
    """The functions in compiled code with their qualified names: what is in a function is a part of it. What
    runs when a module is imported (comprehensions) is left out.
    """
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            name = prefix + inner.co_name
            if name.startswith("<") and name != "<lambda>":
                continue
            if inner.co_flags & inspect.CO_OPTIMIZED:
                yield name, inner
            yield from _functions(inner, f"{name}.")
