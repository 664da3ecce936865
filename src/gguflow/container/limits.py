"""The largest sizes of a GGUF file that are accepted. The parser holds them while it reads, so that they
bound its work too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from gguflow.arguments import integer

MAX_DIMS = 4

MAX_EXTRA_DIMS = 1 << 16
"""Dimensions beyond the fourth that the parser reads, of all tensors together. Each breaks a rule already
(C-014); more of them only take memory.
"""


@dataclass(frozen=True)
class Limits:
    """The largest sizes that are accepted; these defaults are what a reader MUST accept at least.

    header_bytes: of the header.
    string_bytes: of one string.
    n_elements: of one array.
    n_keys: number of metadata keys.
    n_tensors: number of tensors.

    Raises UsageError if one is not an integer from 0.
    """

    header_bytes: int = 1 << 30
    string_bytes: int = 1 << 26
    n_elements: int = 1 << 30
    n_keys: int = 1 << 16
    n_tensors: int = 1 << 18

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, integer(getattr(self, each.name), each.name, 0))


DEFAULT_LIMITS = Limits()
