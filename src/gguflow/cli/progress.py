"""Progress of a conversion: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from gguflow.cli.text import nbytes_text

if TYPE_CHECKING:
    from gguflow.conversion.plan import Plan, PlannedTensor

_PLAIN_INTERVAL = 5.0
"""Seconds between lines."""


@contextmanager
def shown(
    plans: Sequence[Plan], stream: TextIO | None = None
) -> Iterator[Callable[[PlannedTensor, int, int], None]]:
    """A callback for `conversion.run` that shows tensors and bytes done, the rate, and the time left.

    plans: of all outputs.
    stream: where to show it; stderr by default.
    """
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        yield from _bar(plans, stream)
    else:
        yield from _lines(plans, stream)


class _Count:
    """Counts complete tensors while their leaves are written in any order. total_nbytes: of all outputs."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.remaining = {id(planned): planned.tensor.n_weights for plan in plans for planned in plan.tensors}
        self.n_tensors = len(self.remaining)
        self.n_done = 0
        self.total_nbytes = sum(planned.nbytes for plan in plans for planned in plan.tensors)

    def add(self, planned: PlannedTensor, n_weights: int) -> str:
        self.remaining[id(planned)] -= n_weights
        self.n_done += not self.remaining[id(planned)]
        return f"{self.n_done}/{self.n_tensors} tensors"


def _bar(plans: Sequence[Plan], stream: TextIO) -> Iterator[Callable[[PlannedTensor, int, int], None]]:
    from tqdm import tqdm

    count = _Count(plans)
    with tqdm(
        total=count.total_nbytes,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=stream,
        dynamic_ncols=True,
        leave=False,
    ) as bar:

        def update(planned: PlannedTensor, n_weights: int, nbytes: int) -> None:
            bar.set_description_str(count.add(planned, n_weights), refresh=False)
            bar.update(nbytes)

        yield update


def _lines(plans: Sequence[Plan], stream: TextIO) -> Iterator[Callable[[PlannedTensor, int, int], None]]:
    count = _Count(plans)
    started = last = time.monotonic()
    written = 0

    def update(planned: PlannedTensor, n_weights: int, nbytes: int) -> None:
        nonlocal last, written
        written += nbytes
        tensors = count.add(planned, n_weights)
        now = time.monotonic()
        if now - last >= _PLAIN_INTERVAL:
            last = now
            rate = max(written, 1) / (now - started)
            left = (count.total_nbytes - written) / rate
            done = f"{tensors}, {nbytes_text(written)} of {nbytes_text(count.total_nbytes)}"
            print(f"{done}, {nbytes_text(rate)}/s, {left:.0f} s left", file=stream, flush=True)

    yield update
