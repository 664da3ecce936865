"""The steps of a comparison with other programs: each a command of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def execute(*command: object, cwd: Path | None = None) -> None:
    """Run a step; where it fails, its output is the message."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(str(part) for part in command)}\n{done.stdout[-4000:]}\nexit code {done.returncode}"
        )
