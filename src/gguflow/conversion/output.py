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

    leaf: number of the tensor, number of the leaf.
    digest: its digest.
    offset: of its blocks, from the start of the file.
    nbytes: size of its blocks.
    """

    leaf: Leaf
    digest: bytes
    offset: int
    nbytes: int


class Output:
    """One file of a conversion. Tensors are numbered over all shards, in leaves as well as here.

    plan: what is to be written.
    path: of the finished file.
    binding: what the journal is bound to in addition to the plan: one line of text.
    overwrite: whether a file of that name may be replaced.
    resume: whether to continue what an interrupted run left.
    allow_non_finite: whether NaN and infinity are kept if they were in the source, or in plain numbers.

    marks: what was seen of the tensors while they were written.
    places: offset (from the start of the data section) and size in bytes of every tensor whose place is
        known. These are all tensors from the start, unless the plan has payloads, whose sizes may depend on
        the data; then each tensor is placed (`place_tensor`) when all before it are written.
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
        method = "" if plan.method == "ggml" else f" {plan.method}"
        self.journal = Journal(
            hidden_sibling(path, ".journal"), f"{binding} {plan_digest} {plan.imatrix_digest}{method}"
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
            elif self.file.found:
                self.file.reserve()
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
        """The plan of a tensor, which must be in this file.

        i: number of the tensor, over all shards.
        """
        return self.plan.tensors[i - self.plan.first_tensor]

    def tensors(self) -> range:
        """The numbers of the tensors in this file."""
        return range(self.plan.first_tensor, self.plan.first_tensor + len(self.plan.tensors))

    def place_tensor(self, i: int) -> None:
        """Give a tensor its place after those before it, whose sizes are known. Its leaves that an earlier
        run wrote are taken over if they really are in the file.

        i: number of the tensor.
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
        """Events (tensor, weights, bytes) for the leaves that were taken over so far.

        first: number of the first of these leaves, from 0.
        """
        found = []
        for leaf in self.resumed[first:]:
            planned = self.planned(leaf[0])
            start, stop = leaf_weights(leaf[1], planned.tensor.n_weights)
            found.append((planned, stop - start, planned.blocks.nbytes(stop - start)))
        return found

    def start(self, i: int) -> int:
        """Where a tensor begins, in bytes from the start of the file.

        i: number of the tensor.
        """
        return self.plan.data_offset + self.places[i][0]

    def offset(self, i: int, weight: int) -> int:
        """Where a block begins, in bytes from the start of the file.

        i: number of the tensor.
        weight: number of the first weight of the block.
        """
        return self.start(i) + self.planned(i).blocks.nbytes(weight)

    def record_leaves(self, leaves: Sequence[WrittenLeaf]) -> None:
        """Record that leaves are written.

        leaves: the leaves, with their digests and places.
        """
        self._has_written = True
        digests = {written.leaf: written.digest for written in leaves}
        self.digests.update(digests)
        self.journal.record_leaves(digests)
        for written in leaves:
            self.file.begin_flush(written.nbytes, written.offset)

    def record_chunk(self, i: int, number: int, nbytes: int, digest: bytes, offset: int) -> None:
        """Record that a chunk of a payload is written.

        i: number of the tensor.
        number: number of the chunk.
        nbytes: size of the chunk.
        digest: digest of the chunk.
        offset: of the chunk, from the start of the file.
        """
        self._has_written = True
        self.journal.record_chunk((i, number), digest, nbytes)
        self.file.begin_flush(nbytes, offset)

    def finish_payload(self, i: int, nbytes: int, digest: bytes) -> None:
        """Record that a payload is written completely.

        i: number of the tensor.
        nbytes: size of the payload.
        digest: digest of the payload.
        """
        self.places[i] = self.places[i][0], nbytes
        self.payload_digests[i] = digest

    def tensor_digests(self) -> list[bytes]:
        """The digests of all tensors in order; all leaves must be written."""
        return [
            self.payload_digests.get(i)
            or tensor_digest(
                self.digests[i, number] for number in range(n_leaves(self.planned(i).tensor.n_weights))
            )
            for i in self.tensors()
        ]

    def final_plan(self) -> Plan:
        """The plan as it was carried out, with the final place of every tensor."""
        if not self.plan.has_payloads:
            return self.plan
        return self.plan.with_places([self.places[i] for i in self.tensors()])

    def leaf_nbytes(self, leaf: Leaf) -> int:
        """Size in bytes of the blocks of a leaf, without padding.

        leaf: number of the tensor, number of the leaf.
        """
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
        """What is doubtful about the tensors of the file, after they are written."""
        return list(warnings([(i, self.planned(i)) for i in self.tensors()], self.marks))
