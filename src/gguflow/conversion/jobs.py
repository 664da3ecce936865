"""All jobs of a conversion, in their order: outputs of block formats share each reading of a leaf; an output
with payloads is written alone, tensor by tensor, and its payloads chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gguflow.container.integrity import LEAF_WEIGHTS
from gguflow.container.payload_keys import payload_names
from gguflow.conversion.engine import DRAIN, Jobs, Resumed
from gguflow.conversion.leaf_jobs import Leaves
from gguflow.conversion.output import Output
from gguflow.conversion.payloads import CopiedPayloadJob, engine_of
from gguflow.conversion.plan import Plan
from gguflow.errors import Finding, UsageError, warn
from gguflow.fidelity.search import SCRATCH_PER_WEIGHT
from gguflow.models.reading import ModelReader

SMALLEST_TILE = 256
"""Weights: one block of the largest format."""

_LEAF_BYTES_PER_WEIGHT = 4 + 4 + 4
"""Source bytes, float32 and blocks, each of at most 4 bytes a weight."""


MANY_THREADS = 8
"""With this many threads or more, passing on the interpreter's lock for each leaf costs more than the memory
that several leaves take.
"""

LEAVES_OF_A_JOB = 4
"""Most leaves that a thread moves at once in that case."""

JOBS_EACH = 16
"""Fewest jobs that each thread should have, so that all threads end at about the same time."""


@dataclass(frozen=True)
class Memory:
    """How a memory limit is shared.

    tile: weights that a thread moves at a time, a multiple of every block size: part of a leaf, or a few
        leaves.
    held: bytes that chunks of payloads may take together, from their beginning until they are written.
    threads: number of threads, fewer than were asked for where each needs much memory.
    """

    tile: int
    held: int
    threads: int

    @classmethod
    def shared(cls, plans: Sequence[Plan], limit: int, threads: int) -> Memory:
        """Share a memory limit; called before anything is read.

        plans: the plan of every output file.
        limit: bytes.
        threads: number of threads.

        Raises UsageError if not even the smallest pieces stay under the limit.
        """
        kept = max((nbytes for plan in plans for nbytes in _kept_by_threads(plan)), default=0)
        if kept > limit // 2:
            message = (
                f"each thread takes {kept} bytes to decode chunks of the source: there is one thread, and "
                f"more memory may be taken than the limit of {limit} bytes"
            )
            warn("--memory-limit", Finding("M-104", message))
        if kept:
            threads = min(threads, max(limit // 2 // kept, 1))
            limit = max(limit - threads * kept, limit // 2)
        has_payloads = any(plan.has_payloads for plan in plans)
        most = limit // 2 if has_payloads else limit
        is_searched = any(planned.method == "search" for plan in plans for planned in plan.tensors)
        bytes_per_weight = _LEAF_BYTES_PER_WEIGHT + is_searched * SCRATCH_PER_WEIGHT
        fitting = most // threads // bytes_per_weight // SMALLEST_TILE * SMALLEST_TILE
        if fitting < SMALLEST_TILE:
            needed = threads * bytes_per_weight * SMALLEST_TILE * (limit // most if most else 1)
            raise UsageError(
                f"a memory limit of {limit} bytes is too small for {threads} threads: they need {needed}, "
                "or fewer threads"
            )
        for plan in plans:
            for planned in plan.tensors:
                if planned.encoding is not None:
                    engine_of(planned.encoding).check_memory(planned, most, threads)
        leaves = max(plan.n_weights for plan in plans) // LEAF_WEIGHTS // (JOBS_EACH * threads)
        together = min(leaves, LEAVES_OF_A_JOB) if threads >= MANY_THREADS else 1
        return cls(min(fitting, max(together, 1) * LEAF_WEIGHTS), most, threads)


def _kept_by_threads(plan: Plan) -> Iterator[int]:
    """Bytes that a thread takes to read each payload of the source."""
    for planned in plan.tensors:
        for source in planned.tensor.sources:
            if source.stored is not None:
                yield source.stored.kept_nbytes


def jobs_of(reader: ModelReader, outputs: Sequence[Output], memory: Memory) -> Jobs:
    """The jobs of all outputs; at their end, what was read is checked against the digests in the sources.

    reader: of the sources.
    outputs: all files of the conversion.
    memory: how the memory limit is shared.
    """
    plain = [output for output in outputs if not output.plan.has_payloads]
    if plain:
        yield from _plain_jobs(Leaves(reader, plain, memory.tile, memory.threads))
    for output in outputs:
        if output.plan.has_payloads:
            yield from _mixed_jobs(Leaves(reader, [output], memory.tile, memory.threads), output, memory)


def _plain_jobs(leaves: Leaves) -> Jobs:
    """Every leaf of outputs without payloads."""
    yield Resumed([event for output in leaves.outputs for event in output.resumed_events()])
    try:
        for output in leaves.outputs:
            copied = payload_names(output.plan.metadata)
            yield from (
                CopiedPayloadJob(output, i) for i in output.tensors() if output.planned(i).name in copied
            )
        for i in range(max(output.tensors().stop for output in leaves.outputs)):
            yield from leaves.jobs(i)
        yield DRAIN
    finally:
        leaves.note()
    leaves.digests.finish(leaves.reader)


def _mixed_jobs(leaves: Leaves, output: Output, memory: Memory) -> Jobs:
    """The tensors of an output that has payloads: the place of one behind a payload whose size depends on the
    data is known when that is written.
    """
    try:
        for i in output.tensors():
            if i - 1 in output.tensors() and output.planned(i - 1).is_bound:
                yield DRAIN
            n_resumed = len(output.resumed)
            output.place_tensor(i)
            planned = output.planned(i)
            if planned.encoding is None:
                yield Resumed(output.resumed_events(n_resumed))
                yield from leaves.jobs(i)
            else:
                payloads = engine_of(planned.encoding)
                share = payloads.check_memory(planned, memory.held, memory.threads)
                yield from payloads.jobs(leaves.reader, output, i, share)
        yield DRAIN
    finally:
        leaves.note()
    leaves.digests.finish(leaves.reader)
