"""Sources that carry digests, held to them: the leaves of a tensor are digested as they are read, and
compared when all of them were.

Otherwise damaged weights would be given new digests and pass as intact. A leaf of the source is a leaf of the
output: both are 2**20 weights.
"""

from __future__ import annotations

import threading

from gguflow.container.integrity import leaf_weights, n_leaves, new_leaf_digest, tensor_digest
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import ModelTensor
from gguflow.models.reading import ModelReader
from gguflow.quantization import Bytes
from gguflow.sources.base import SourceTensor, json_path


class LeafDigest:
    """The digest of one leaf of a source, updated as the leaf is read.

    source: the tensor.
    last: the weight after the leaf's last one.
    """

    def __init__(self, source: SourceTensor, last: int) -> None:
        self._digest = new_leaf_digest()
        self._padding = source.proof.padding if source.proof is not None and last == source.n_weights else 0

    def update(self, raw: Bytes) -> None:
        """Add the next bytes of the leaf.

        raw: uint8[n].
        """
        self._digest.update(raw)

    def digest(self) -> bytes:
        """The digest; that of the last leaf includes the zeros after the tensor."""
        self._digest.update(bytes(self._padding))
        return bytes(self._digest.digest())


class SourceDigests:
    """The tensors of a conversion whose source has digests, and the digests of the leaves that were read.
    Threads share it.

    tensors: by number. Those without a digest, or whose rows are read in another order, are ignored.
    """

    def __init__(self, tensors: dict[int, ModelTensor]) -> None:
        checked = {i: tensor for i, tensor in tensors.items() if _has_digest(tensor)}
        self._sources = {i: tensor.sources[0].as_stored() for i, tensor in checked.items()}
        self._read_by_chunks = {i for i, tensor in checked.items() if tensor.sources[0].stored is not None}
        self._digests: dict[int, dict[int, bytes]] = {i: {} for i in self._sources}
        self._lock = threading.Lock()

    def begin(self, i: int, last: int) -> LeafDigest | None:
        """The digest to update while a leaf is read; None if it would prove nothing.

        i: number of the tensor.
        last: the weight after the leaf's last one.
        """
        source = self._sources.get(i)
        return None if source is None or i in self._read_by_chunks else LeafDigest(source, last)

    def end(self, i: int, number: int, digest: LeafDigest) -> None:
        """Record that a leaf was read.

        i: number of the tensor.
        number: of the leaf.
        digest: of the leaf.

        Raises InvalidError (I-006) if all leaves of the tensor are read now, and it is not what its file
        says.
        """
        with self._lock:
            known = self._digests[i]
            known[number] = digest.digest()
            source = self._sources[i]
            if len(known) < n_leaves(source.n_weights):
                return
        self._check(source, known)

    def finish(self, reader: ModelReader) -> None:
        """Read the leaves that an earlier run converted, and the payloads, which are read by chunks.

        reader: of the sources.

        Raises InvalidError (I-006).
        """
        for i, known in self._digests.items():
            source = self._sources[i]
            for number in range(n_leaves(source.n_weights)):
                if number not in known:
                    first, last = leaf_weights(number, source.n_weights)
                    digest = LeafDigest(source, last)
                    digest.update(reader.files.read(source, first, last))
                    reader.files.release(source, first, last)
                    self.end(i, number, digest)

    @staticmethod
    def _check(source: SourceTensor, known: dict[int, bytes]) -> None:
        found = tensor_digest(known[number] for number in range(len(known)))
        if source.proof is not None and found != source.proof.digest:
            message = f"damaged data: tensor {source.name!r} is not as it was written"
            where = json_path(source.name)
            finding = Finding("I-006", message, where, source.offset, found.hex(), source.proof.digest.hex())
            raise InvalidError(source.file.path, finding)


def _has_digest(tensor: ModelTensor) -> bool:
    """Whether the leaves of a tensor are those of one source that has a digest."""
    has_one = len(tensor.sources) == 1 and tensor.sources[0].proof is not None
    return has_one and tensor.view is None and tensor.n_weights > 0
