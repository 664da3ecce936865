"""The hyper-parameters of a model, as the keys of a GGUF file give them: shapes of tensors are made of them.

A conversion writes the keys first and then asks them, as llama.cpp does when it loads the file; so one table
of tensors serves conversion, export and validation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguflow.container.metadata import INTEGERS, Metadata, Value, ValueType
from gguflow.errors import Finding, InvalidError
from gguflow.models.documents import MAX_INTEGER, Document

MAX_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS: the largest number of blocks that it loads."""


@dataclass(frozen=True)
class Parameters:
    """Hyper-parameters; a key that differs from layer to layer is an array with one value for each.

    architecture: `general.architecture`, with which the keys begin.
    metadata: of the file that is written or read.
    n_tokens: size of the vocabulary.
    path: config.json, or the GGUF file: for messages.
    config: config.json while a checkpoint is converted; None for a GGUF file.
    missing: where keys are noted that must be there and are not, and count as 1; None to raise for them.
    """

    architecture: str
    metadata: Metadata
    n_tokens: int
    path: Path
    config: Document | None = None
    missing: set[str] | None = field(default=None, compare=False)

    def has(self, key: str) -> bool:
        """Whether a key is there.

        key: after the architecture's name, as in all methods here.
        """
        return f"{self.architecture}.{key}" in self.metadata

    def integer(self, key: str, default: int | None = None, minimum: int = 0) -> int:
        """One integer, of an array the largest.

        key: of the number.
        default: if there is none; None if there must be one.
        minimum: the least that is allowed.

        Raises InvalidError (M-002, M-003).
        """
        value = self._value(key)
        if value is None:
            if default is None and self.missing is not None:
                self.missing.add(f"{self.architecture}.{key}")
                return max(minimum, 1)
            if default is None:
                raise self._wrong(key, "is missing", None, rule="M-002")
            return default
        return max(self._integers(key, value, minimum), default=0)

    def of_layer(self, key: str, layer: int, default: int | None = None) -> int:
        """The integer of one layer.

        key: of a number or an array.
        layer: number of the layer.
        default: if there is none; None if there must be one.

        Raises InvalidError (M-002, M-003).
        """
        value = self._value(key)
        if value is None or value.type is not ValueType.ARRAY:
            return self.integer(key, default)
        numbers = self._integers(key, value, 0)
        if layer >= len(numbers):
            raise self._wrong(key, "does not have one value for each block", len(numbers))
        return numbers[layer]

    def flags(self, key: str) -> list[bool]:
        """An array of booleans, empty if there is none.

        key: of the array.
        """
        value = self._value(key)
        return [bool(x) for x in value.value] if value is not None and value.type is ValueType.ARRAY else []

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean.

        key: of the boolean.
        default: if there is none.
        """
        value = self._value(key)
        return bool(value.value) if value is not None and value.type is ValueType.BOOL else default

    @property
    def n_layers(self) -> int:
        """Number of blocks, those that predict further tokens included."""
        n = self.integer("block_count", None if self.missing is None else 0, minimum=1)
        if n > MAX_LAYERS:
            raise self._wrong("block_count", f"is over {MAX_LAYERS}", n)
        return n

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.integer("embedding_length", minimum=1)

    def heads(self, layer: int = 0) -> int:
        """Number of query heads of a layer.

        layer: number of the layer.
        """
        return self.of_layer("attention.head_count", layer)

    def kv_heads(self, layer: int = 0) -> int:
        """Number of key heads of a layer.

        layer: number of the layer.
        """
        heads = self.heads(layer)
        found = self.of_layer("attention.head_count_kv", layer, heads)
        if found and heads % found:
            raise self._wrong("attention.head_count_kv", "does not divide the heads", found, heads)
        return found

    @property
    def head_dim(self) -> int:
        """Width of a query and key head."""
        most = max(self.integer("attention.head_count"), 1)
        return self.integer("attention.key_length", self.hidden // most, minimum=1)

    @property
    def rotated_dim(self) -> int:
        """Width of a head whose halves rotate. Raises InvalidError (M-003) if it is odd."""
        if self.head_dim % 2:
            raise self._wrong("attention.head_count", "gives heads of odd width", self.heads())
        return self.head_dim

    @property
    def value_dim(self) -> int:
        """Width of a value head."""
        most = max(self.integer("attention.head_count"), 1)
        return self.integer("attention.value_length", self.hidden // most, minimum=1)

    def wide(self, layer: int = 0) -> int:
        """Width of the feed-forward network of a layer.

        layer: number of the layer.
        """
        return self.of_layer("feed_forward_length", layer)

    @property
    def n_experts(self) -> int:
        """Number of experts of a layer, 0 for none."""
        return self.integer("expert_count", 0)

    @property
    def expert_wide(self) -> int:
        """Width of an expert."""
        return self.integer("expert_feed_forward_length", self.integer("feed_forward_length", 0))

    @property
    def is_tied(self) -> bool:
        """Whether the checkpoint may lack an output matrix."""
        return self.config is None or self.config.flag("tie_word_embeddings", False)

    def _value(self, key: str) -> Value | None:
        return self.metadata.get(f"{self.architecture}.{key}")

    def _integers(self, key: str, value: Value, minimum: int) -> list[int]:
        kind = value.element_type if value.type is ValueType.ARRAY else value.type
        numbers: list[Any] = list(value.value) if value.type is ValueType.ARRAY else [value.value]
        if kind not in INTEGERS:
            raise self._wrong(key, "is not an integer", kind.name if kind is not None else None)
        for number in numbers:
            if not minimum <= number <= MAX_INTEGER:
                raise self._wrong(key, "is out of range", int(number), f"{minimum} to {MAX_INTEGER}")
        return [int(number) for number in numbers]

    def _wrong(
        self, key: str, what: str, found: object, expected: object = None, rule: str = "M-003"
    ) -> InvalidError:
        name = f"{self.architecture}.{key}"
        return InvalidError(
            self.path,
            Finding(rule, f"{name} {what}", f"$.metadata[{name!r}]", found=found, expected=expected),
        )
