"""Whether chat templates compile and render, found out where jinja2 is installed (`rendering.py`)."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gguflow.models.tokenizers import rendering

MAX_TEMPLATES = 64
"""How many templates of a model are checked."""

SECONDS = 30
"""How long all of them together may take, on a clock."""

_INTERNALS = re.compile(r"__\w+__")
"""A template that names such an attribute is not tried: no honest one does."""

TOO_MUCH = f"it needs more than {rendering.CPU_SECONDS} seconds, or than {rendering.MEMORY_LIMIT >> 20} MiB"


def is_available() -> bool:
    """Whether templates can be checked here."""
    return bool(sys.executable) and importlib.util.find_spec("jinja2") is not None


def template_faults(templates: Sequence[str]) -> list[str | None]:
    """What is wrong with each template; None where nothing is, or where it is not found out.

    templates: the texts; only the first MAX_TEMPLATES are tried.
    """
    tried = [i for i, text in enumerate(templates) if not _INTERNALS.search(text)][:MAX_TEMPLATES]
    faults: dict[int, str | None] = {}
    n_done = 0
    while n_done < len(tried) and is_available():
        found, was_stopped = _faults([templates[i] for i in tried[n_done:]])
        found += [TOO_MUCH] * was_stopped  # the one that ended the process; those behind it have not begun
        faults |= dict(zip(tried[n_done:], found, strict=False))
        n_done += len(found)
        if not was_stopped:
            break
    return [faults.get(i) for i in range(len(templates))]


def _faults(templates: Sequence[str]) -> tuple[list[str | None], bool]:
    """The faults of the templates until one ended the process, and whether one did."""
    request = json.dumps(
        {"path": [entry for entry in sys.path if Path(entry).is_absolute()], "templates": templates}
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", rendering.__file__],
            input=request.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
        answer, is_stopped = done.stdout, done.returncode < 0
    except subprocess.TimeoutExpired as error:
        answer, is_stopped = error.stdout or b"", True
    except OSError:  # no process can be started here
        return [], False
    lines = answer.split(b"\n")[:-1]
    return [json.loads(line) for line in lines][: len(templates)], is_stopped and len(lines) < len(templates)
