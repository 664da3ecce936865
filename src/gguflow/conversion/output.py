"""One file of a conversion while it is written: the places of its tensors, its journal, and the digests of
the leaves that it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from gguflow.container.header import align
from gguflow.container.integrity import leaf_weights, n_leaves, new_leaf_digest, tensor_digest
from gguflow.container.output_file import OutputFile, hidden_sibling, is_worth_keeping
from gguflow.conversion.journal import Claims, Journal, Leaf
from gguflow.conversion.plan import Plan, PlannedTensor
from gguflow.conversion.proving import Marks, prove, warnings
from gguflow.errors import Finding, StorageError, UsageError
from gguflow.quantization import look


class WrittenLeaf(NamedTuple):
    """A leaf that is in the file.

    offset, nbytes: where its blocks lie, from the start of the file.
    """

    leaf: Leaf
    digest: bytes
    offset: int
    nbytes: int


class Output:
    """One file of a conversion. Tensors are counted over all shards, by leaves and here.

    plan: what is to be written.
    path: of the finished file.
    binding: what the journal is bound to beside the plan: one line of text.
    overwrite: whether a file of that name may be replaced.
    resume: whether to go on from what an interrupted run left.
    allow_non_finite: whether NaN and infinity may stand where they stood in the source, or in plain numbers.

    marks: what was seen of the tensors while they were written.
    places: offset (from the start of the data section) and size of every tensor whose place is known: of all
    of them from the start, unless the plan has payloads, whose sizes may depend on the data; then each tensor
    is placed (`place_tensor`) when all before it are written.
    """

    def __init__(
        self,
        plan: Plan,
        path: Path,
        binding: str,
        *,
        overwrite: bool,
        resume: bool,
        allow_non_finite: bool = False,
    ) -> None:
        self.plan = plan
        self.allow_non_finite = allow_non_finite
        self.marks = Marks()
        self.file = OutputFile(path, plan.nbytes, overwrite=overwrite, resume=resume)
        plan_digest = hashlib.sha256(plan.header).hexdigest()
        self.journal = Journal(
            hidden_sibling(path, ".journal"), f"{binding} {plan_digest} {plan.imatrix_digest}"
        )
        self.claims = Claims()
        self.places: dict[int, tuple[int, int]] = {}
        self.digests: dict[Leaf, bytes] = {}
        self.payload_digests: dict[int, bytes] = {}
        self.resumed: list[Leaf] = []
        self.resumed_nbytes = 0
        self._has_written = False

    def __enter__(self) -> Output:
        self.file.__enter__()
        try:
            try:
                self.claims = self.journal.claims() if self.file.found else Claims()
            except (UsageError, StorageError):
                self.file.keep()
                raise
            if not self.plan.has_payloads:
                for i in self.tensors():
                    self.place_tensor(i)
            is_fresh = not (self.claims if self.plan.has_payloads else self.digests)
            if self.file.found and is_fresh:
                self.file.clear()
            self.journal.open(fresh=is_fresh)
        except BaseException as error:
            self.file.__exit__(None, error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        keep = is_worth_keeping(error) and (self._has_written or bool(self.claims))
        if keep:
            self.file.keep()
        self.journal.close(remove=not keep)
        self.file.__exit__(kind, error, traceback)

    def planned(self, i: int) -> PlannedTensor:
        """Tensor i, counted over all shards, which must be in this one."""
        return self.plan.tensors[i - self.plan.first_tensor]

    def tensors(self) -> range:
        """The numbers of its tensors."""
        return range(self.plan.first_tensor, self.plan.first_tensor + len(self.plan.tensors))

    def place_tensor(self, i: int) -> None:
        """Give tensor i its place behind those before it, whose sizes are known. What an earlier run wrote of
        its leaves is taken over, if it is really there.
        """
        if i == self.plan.first_tensor:
            offset = 0
        else:
            before, nbytes = self.places[i - 1]
            offset = align(before + nbytes, self.plan.alignment)
        planned = self.planned(i)
        self.places[i] = offset, planned.nbytes
        for number in range(n_leaves(planned.tensor.n_weights) if planned.encoding is None else 0):
            digest = self.claims.leaves.get((i, number))
            if digest is not None and self._is_there((i, number), digest):
                self.digests[i, number] = digest
                self.resumed.append((i, number))
                self.resumed_nbytes += self.leaf_nbytes((i, number))

    def resumed_events(self, first: int = 0) -> list[tuple[PlannedTensor, int, int]]:
        """For the leaves taken over so far, from number `first` on: tensor, weights, bytes."""
        found = []
        for leaf in self.resumed[first:]:
            planned = self.planned(leaf[0])
            start, stop = leaf_weights(leaf[1], planned.tensor.n_weights)
            found.append((planned, stop - start, planned.blocks.nbytes(stop - start)))
        return found

    def start(self, i: int) -> int:
        """Where tensor i begins, from the start of the file."""
        return self.plan.data_offset + self.places[i][0]

    def offset(self, i: int, weight: int) -> int:
        """Where a weight at the start of a block of tensor i lies, from the start of the file."""
        return self.start(i) + self.planned(i).blocks.nbytes(weight)

    def record_leaves(self, leaves: Sequence[WrittenLeaf]) -> None:
        """These leaves are written."""
        self._has_written = True
        digests = {written.leaf: written.digest for written in leaves}
        self.digests.update(digests)
        self.journal.record_leaves(digests)
        for written in leaves:
            self.file.begin_flush(written.nbytes, written.offset)

    def record_chunk(self, i: int, number: int, nbytes: int, digest: bytes, offset: int) -> None:
        """A chunk of payload i is written, at its offset from the start of the file."""
        self._has_written = True
        self.journal.record_chunk((i, number), digest, nbytes)
        self.file.begin_flush(nbytes, offset)

    def finish_payload(self, i: int, nbytes: int, digest: bytes) -> None:
        """Payload i is written: its size and its digest are known."""
        self.places[i] = self.places[i][0], nbytes
        self.payload_digests[i] = digest

    def tensor_digests(self) -> list[bytes]:
        """The digests of its tensors in order, now that all leaves are known."""
        return [
            self.payload_digests.get(i)
            or tensor_digest(
                self.digests[i, number] for number in range(n_leaves(self.planned(i).tensor.n_weights))
            )
            for i in self.tensors()
        ]

    def final_plan(self) -> Plan:
        """The plan as it has been carried out: with the true place of every tensor."""
        if not self.plan.has_payloads:
            return self.plan
        return self.plan.with_places([self.places[i] for i in self.tensors()])

    def leaf_nbytes(self, leaf: Leaf) -> int:
        """Bytes of its blocks, without padding."""
        planned = self.planned(leaf[0])
        first, last = leaf_weights(leaf[1], planned.tensor.n_weights)
        return planned.blocks.nbytes(last - first)

    def _is_there(self, leaf: Leaf, digest: bytes) -> bool:
        """Whether the partial file really holds a leaf that the journal claims."""
        planned = self.planned(leaf[0])
        first, last = leaf_weights(leaf[1], planned.tensor.n_weights)
        found = new_leaf_digest()
        content = np.frombuffer(self.file.read(self.leaf_nbytes(leaf), self.offset(leaf[0], first)), np.uint8)
        found.update(content)
        if last == planned.tensor.n_weights:
            found.update(bytes(planned.padding))
        if found.digest() != digest:
            return False
        allow = self.allow_non_finite
        found = look(content, planned.blocks)
        prove(planned, leaf[0], first, content, None, found, self.marks, allow_non_finite=allow)
        return True

    def warnings(self) -> list[Finding]:
        """What is to be said of its tensors, now that they are written."""
        return list(warnings([(i, self.planned(i)) for i in self.tensors()], self.marks))
