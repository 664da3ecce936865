"""Two things timed in turns, so that a machine that slows down or speeds up does it to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPETITIONS = 5

Clock = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """ours, theirs: seconds, the median of the repetitions. ratio: theirs over ours, the median of the ratios
    of each repetition.
    """

    ours: float
    theirs: float
    ratio: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Comparison:
        """The medians of seconds of ours and theirs, a pair for each repetition."""
        return cls(
            ours=statistics.median(a for a, _ in pairs),
            theirs=statistics.median(b for _, b in pairs),
            ratio=statistics.median(b / a for a, b in pairs),
        )


def seconds(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repetitions: int = REPETITIONS,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Both in turns, after one untimed call of ours and theirs (compilation, page faults, caches).

    clock: time.process_time for work that waits for nothing, where others use the same processor.
    """
    ours()
    theirs()
    return Comparison.of([(seconds(ours, clock), seconds(theirs, clock)) for _ in range(repetitions)])
