"""Progress of a conversion for people: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from gguflow.describe import nbytes_text
from gguflow.plan import Plan, PlannedTensor

_PLAIN_INTERVAL = 5.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def shown(plan: Plan, stream: TextIO | None = None) -> Iterator[Callable[[PlannedTensor, int, int], None]]:
    """A callback for `conversion.run` that shows tensors and bytes done, the rate, and the time left."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        yield from _bar(plan, stream)
    else:
        yield from _lines(plan, stream)


class _Count:
    """Tensors that are complete, counted from pieces in any order."""

    def __init__(self, plan: Plan) -> None:
        self.remaining = {planned.name: planned.tensor.n_weights for planned in plan.tensors}
        self.n_done = 0

    def add(self, planned: PlannedTensor, n_weights: int) -> int:
        self.remaining[planned.name] -= n_weights
        self.n_done += not self.remaining[planned.name]
        return self.n_done


def _bar(plan: Plan, stream: TextIO) -> Iterator[Callable[[PlannedTensor, int, int], None]]:
    from tqdm import tqdm

    count = _Count(plan)
    total = sum(planned.nbytes for planned in plan.tensors)
    with tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, file=stream, dynamic_ncols=True, leave=False) as bar:

        def update(planned: PlannedTensor, n_weights: int, nbytes: int) -> None:
            bar.set_description_str(f"{count.add(planned, n_weights)}/{len(plan.tensors)} tensors", refresh=False)
            bar.update(nbytes)

        yield update


def _lines(plan: Plan, stream: TextIO) -> Iterator[Callable[[PlannedTensor, int, int], None]]:
    count = _Count(plan)
    total = sum(planned.nbytes for planned in plan.tensors)
    started = last = time.monotonic()
    written = 0

    def update(planned: PlannedTensor, n_weights: int, nbytes: int) -> None:
        nonlocal last, written
        written += nbytes
        n_done = count.add(planned, n_weights)
        now = time.monotonic()
        if now - last >= _PLAIN_INTERVAL:
            last = now
            rate = written / (now - started)
            left = (total - written) / rate
            done = f"{n_done}/{len(plan.tensors)} tensors, {nbytes_text(written)} of {nbytes_text(total)}"
            print(f"{done}, {nbytes_text(rate)}/s, {left:.0f} s left", file=stream, flush=True)

    yield update
