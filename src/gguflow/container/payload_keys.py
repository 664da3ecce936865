"""The keys of files with payloads: I8 tensors with encodings of the family (spec/blocks/parametric.md).

    gguflow.encodings           the names of all encodings in the model: a reader that does not know one must
                                not guess what the I8 tensors mean
    gguflow.encodings.tensors   the names of those tensors

They are in the first file of a model, either both or neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gguflow.container.metadata import Metadata, ValueType, array

MUST_UNDERSTAND_KEY = "gguflow.encodings"
PAYLOADS_KEY = "gguflow.encodings.tensors"


def payload_metadata(payloads: Mapping[str, str]) -> Metadata:
    """The keys of a model with payloads, given as encodings' names by tensor; none if there are none."""
    if not payloads:
        return {}
    names = sorted(set(payloads.values()))
    return {
        MUST_UNDERSTAND_KEY: array(ValueType.STRING, names),
        PAYLOADS_KEY: array(ValueType.STRING, list(payloads)),
    }


def keys_of_payloads(metadata: Metadata) -> Metadata:
    """Those of the two keys that are present."""
    return {key: metadata[key] for key in (MUST_UNDERSTAND_KEY, PAYLOADS_KEY) if key in metadata}


def payload_names(metadata: Metadata) -> frozenset[str]:
    """The tensors that the keys call payloads; none if a key is missing or wrong (see the validator)."""
    return (
        frozenset(strings_under(metadata, PAYLOADS_KEY) or ())
        if strings_under(metadata, MUST_UNDERSTAND_KEY) is not None
        else frozenset()
    )


def strings_under(metadata: Metadata, key: str) -> Iterable[str] | None:
    """The strings of the array under a key, or None if there is no such array."""
    value = metadata.get(key)
    return (
        value.value
        if value is not None and (value.type, value.element_type) == (ValueType.ARRAY, ValueType.STRING)
        else None
    )
