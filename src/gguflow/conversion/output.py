"""A file being written: where its tensors lie, its journal, and the digests of the leaves that it has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType

from gguflow.container.header import align
from gguflow.container.integrity import LEAF_WEIGHTS, new_leaf_digest, tensor_digest
from gguflow.container.output_file import OutputFile, is_worth_keeping
from gguflow.conversion.journal import Claims, Journal, Leaf
from gguflow.conversion.plan import Plan, PlannedTensor
from gguflow.errors import UsageError
from gguflow.quantization import Bytes


class Output:
    """One file of a conversion. Leaves count the tensors of all shards, and so do the numbers of tensors
    here.

    places: offset (from the start of the data section) and size of every tensor whose place is known: of all
    of them from the start, unless the plan has payloads, whose sizes may depend on the data; then each tensor
    gets its place (`settle`) when all before it are written.
    """

    def __init__(self, plan: Plan, path: Path, binding: str, *, overwrite: bool, resume: bool) -> None:
        self.plan = plan
        self.file = OutputFile(path, plan.nbytes, overwrite=overwrite, resume=resume)
        plan_digest = hashlib.sha256(plan.header).hexdigest()
        self.journal = Journal(
            path.with_name(f".{path.name}.journal"), f"{binding} {plan_digest} {plan.imatrix_digest}"
        )
        self.claims = Claims()
        self.places: dict[int, tuple[int, int]] = {}
        self.digests: dict[Leaf, bytes] = {}
        self.payload_digests: dict[int, bytes] = {}
        self.resumed_nbytes = 0
        self._has_written = False

    def __enter__(self) -> Output:
        self.file.__enter__()
        try:
            try:
                self.claims = self.journal.claims() if self.file.found else Claims()
            except UsageError:
                self.file.keep()
                raise
            if not self.plan.has_payloads:
                for i in self.tensors():
                    self.settle(i)
            is_anew = not (self.claims if self.plan.has_payloads else self.digests)
            if self.file.found and is_anew:
                self.file.clear()
            self.journal.open(anew=is_anew)
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

    def settle(self, i: int) -> None:
        """Tensor i has its place: behind those before it, which are settled. What an earlier run wrote of it
        is taken over, if it is really there.
        """
        if i == self.plan.first_tensor:
            offset = 0
        else:
            before, nbytes = self.places[i - 1]
            offset = align(before + nbytes, self.plan.alignment)
        self.places[i] = offset, self.planned(i).nbytes
        for number in range(n_leaves(self.planned(i)) if self.planned(i).encoding is None else 0):
            digest = self.claims.leaves.get((i, number))
            if digest is not None and self._is_there((i, number), digest):
                self.digests[i, number] = digest
                self.resumed_nbytes += self.leaf_nbytes((i, number))

    def start(self, i: int) -> int:
        """Of tensor i, from the start of the file."""
        return self.plan.data_offset + self.places[i][0]

    def offset(self, i: int, weight: int) -> int:
        """Of a weight at the start of a block of tensor i, from the start of the file."""
        return self.start(i) + self._nbytes(i, weight)

    def record(self, leaf: Leaf, digest: bytes) -> None:
        """A leaf is written."""
        self._has_written = True
        self.digests[leaf] = digest
        self.journal.record(leaf, digest)
        self.file.begin_flush(
            self.leaf_nbytes(leaf), self.offset(leaf[0], leaf_range(self.planned(leaf[0]), leaf[1])[0])
        )

    def write_chunk(self, i: int, number: int, content: Bytes, digest: bytes, offset: int) -> None:
        """Write a chunk of payload i at its offset from the start of the file, and record it."""
        self.file.write(content, offset)
        self._has_written = True
        self.journal.record((i, number), digest, content.size)
        self.file.begin_flush(content.size, offset)

    def finish_payload(self, i: int, nbytes: int, digest: bytes) -> None:
        """Payload i is written: its size and its digest are known."""
        self.places[i] = self.places[i][0], nbytes
        self.payload_digests[i] = digest

    def lacks(self, leaf: Leaf) -> bool:
        return leaf[0] in self.tensors() and leaf not in self.digests

    def tensor_digests(self) -> list[bytes]:
        """Of its tensors in order, now that all leaves are known."""
        return [
            self.payload_digests.get(i)
            or tensor_digest(self.digests[i, leaf] for leaf in range(n_leaves(self.planned(i))))
            for i in self.tensors()
        ]

    def settled_plan(self) -> Plan:
        """The plan as it has been carried out: with the true place of every tensor."""
        if not self.plan.has_payloads:
            return self.plan
        return self.plan.settled([self.places[i] for i in self.tensors()])

    def padding(self, planned: PlannedTensor, last: int) -> bytes:
        """The zero bytes behind a leaf that ends at weight `last`: those behind the tensor where it is the
        last leaf.
        """
        return b"\0" * planned.padding if last == planned.tensor.n_weights else b""

    def leaf_nbytes(self, leaf: Leaf) -> int:
        """Of its blocks, without padding."""
        first, last = leaf_range(self.planned(leaf[0]), leaf[1])
        return self._nbytes(leaf[0], last) - self._nbytes(leaf[0], first)

    def _nbytes(self, i: int, n_weights: int) -> int:
        """Bytes of the first weights of tensor i."""
        block_format = self.planned(i).blocks
        return n_weights // block_format.block_size * block_format.type_size

    def _is_there(self, leaf: Leaf, digest: bytes) -> bool:
        """Whether the partial file really holds a leaf that the journal claims."""
        planned = self.planned(leaf[0])
        first, last = leaf_range(planned, leaf[1])
        content = self.file.read(self.leaf_nbytes(leaf), self.offset(leaf[0], first))
        found = new_leaf_digest()
        found.update(content)
        found.update(self.padding(planned, last))
        return bool(found.digest() == digest)


def n_leaves(planned: PlannedTensor) -> int:
    return -(-planned.tensor.n_weights // LEAF_WEIGHTS)


def leaf_range(planned: PlannedTensor, leaf: int) -> tuple[int, int]:
    """The weights [first, last) of a leaf."""
    return leaf * LEAF_WEIGHTS, min((leaf + 1) * LEAF_WEIGHTS, planned.tensor.n_weights)
