"""A model as the rules about meaning see it: typed metadata, and the tensors of all shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gguflow.container.header import Header, TensorInfo
from gguflow.container.metadata import Metadata, Value, ValueType, integer_under
from gguflow.container.rules import key_path
from gguflow.errors import Finding


@dataclass(frozen=True)
class Facts:
    """A model as its file (or set of shards) describes it.

    metadata: of the first file.
    tensors: by name, with the path for findings.
    positions: of the metadata keys in the file.
    """

    metadata: Metadata
    tensors: Mapping[str, tuple[TensorInfo, str]]
    positions: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, header: Header) -> Facts:
        tensors = {tensor.name: (tensor, f"$.tensors[{i}]") for i, tensor in enumerate(header.tensors)}
        return cls(header.metadata, tensors, header.key_positions)

    def integer(self, key: str) -> int | None:
        """The integer, of any width, under a key, or None."""
        return integer_under(self.metadata, key)

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value.value if value is not None and value.type is ValueType.STRING else None

    def array(self, key: str) -> Value | None:
        value = self.metadata.get(key)
        return value if value is not None and value.type is ValueType.ARRAY else None

    def about_key(
        self,
        rule: str,
        message: str,
        key: str,
        found: object = None,
        expected: object = None,
        severity: str = "error",
    ) -> Finding:
        """A finding about a metadata key."""
        return Finding(rule, message, key_path(key), self.positions.get(key), found, expected, severity)

    def about_tensor(
        self,
        rule: str,
        message: str,
        name: str,
        found: object = None,
        expected: object = None,
        severity: str = "error",
    ) -> Finding:
        """A finding about an existing tensor."""
        tensor, path = self.tensors[name]
        return Finding(rule, message, path, tensor.position or None, found, expected, severity)
