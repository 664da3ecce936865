"""Sources that can prove themselves, held to it: the leaves of a tensor are digested as they are read, and
compared when all of them were.

Damaged weights would else get fresh digests, and look whole for ever after. A leaf of the source is a leaf of
the output: both are 2**20 weights.
"""

from __future__ import annotations

import threading

from gguflow.container.integrity import LEAF_WEIGHTS, new_leaf_digest, tensor_digest
from gguflow.conversion.journal import Leaf
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import ModelTensor
from gguflow.quantization import Bytes
from gguflow.sources.base import SourceTensor, json_path
from gguflow.sources.reading import TensorReader


class LeafProof:
    """The digest of one leaf of a source, fed as it is read."""

    def __init__(self, source: SourceTensor, last: int) -> None:
        self._digest = new_leaf_digest()
        self._padding = source.proof.padding if source.proof is not None and last == source.n_weights else 0

    def update(self, raw: Bytes) -> None:
        """The next bytes of the leaf."""
        self._digest.update(raw)

    def digest(self) -> bytes:
        """With the padding behind the tensor, which is zeros, behind its last leaf."""
        self._digest.update(bytes(self._padding))
        return bytes(self._digest.digest())


class Proofs:
    """The tensors of a conversion whose source has digests, and the digests of the leaves read so far.
    Threads share it.
    """

    def __init__(self, tensors: dict[int, ModelTensor]) -> None:
        """tensors: by number. Those without a digest, or read in another order than they stand, are let be."""
        self._sources = {
            i: tensor.sources[0].as_stored() for i, tensor in tensors.items() if _is_provable(tensor)
        }
        self._later = {
            i
            for i, tensor in tensors.items()
            if _is_provable(tensor) and tensor.sources[0].encoding is not None
        }
        self._digests: dict[int, dict[int, bytes]] = {i: {} for i in self._sources}
        self._lock = threading.Lock()

    def begin(self, leaf: Leaf, last: int) -> LeafProof | None:
        """What to feed while a leaf is read that ends at weight `last`; None where nothing can be proved by
        that.
        """
        source = None if leaf[0] in self._later else self._sources.get(leaf[0])
        return LeafProof(source, last) if source is not None else None

    def end(self, leaf: Leaf, proof: LeafProof) -> None:
        """A leaf was read. Raises InvalidError (I-006) where it was the last of its tensor, and the tensor is
        not what its file says.
        """
        i = leaf[0]
        with self._lock:
            known = self._digests[i]
            known[leaf[1]] = proof.digest()
            source = self._sources[i]
            if len(known) < _n_leaves(source):
                return
        self._check(source, known)

    def finish(self, reader: TensorReader) -> None:
        """Read the leaves that an earlier run had converted, and the payloads, which are read by chunks.
        Raises InvalidError (I-006).
        """
        for i, known in self._digests.items():
            source = self._sources[i]
            for number in range(_n_leaves(source)):
                if number not in known:
                    first, last = number * LEAF_WEIGHTS, min((number + 1) * LEAF_WEIGHTS, source.n_weights)
                    proof = LeafProof(source, last)
                    proof.update(reader.read(source, first, last))
                    reader.release(source, first, last)
                    self.end((i, number), proof)

    @staticmethod
    def _check(source: SourceTensor, known: dict[int, bytes]) -> None:
        found = tensor_digest(known[number] for number in range(len(known)))
        if source.proof is not None and found != source.proof.digest:
            message = f"damaged data: tensor {source.name!r} is not as it was written"
            finding = Finding(
                "I-006",
                message,
                json_path(source.name),
                source.offset,
                found.hex(),
                source.proof.digest.hex(),
            )
            raise InvalidError(source.file.path, finding)


def _is_provable(tensor: ModelTensor) -> bool:
    return (
        len(tensor.sources) == 1
        and tensor.sources[0].proof is not None
        and tensor.row_order is None
        and tensor.n_weights > 0
    )


def _n_leaves(source: SourceTensor) -> int:
    return -(-source.n_weights // LEAF_WEIGHTS)
