"""The parametric family as the rest of the package knows it; `gguflow.blocks.families` finds it."""

from __future__ import annotations

from collections.abc import Mapping

from gguflow.parametric import names
from gguflow.parametric.descriptor import MAGIC
from gguflow.parametric.encoding import Encoding


class _Parametric:
    name = "parametric"
    magic = MAGIC
    free_prefix = names.FREE_PREFIX

    def is_name(self, name: str) -> bool:
        return names.is_name(name)

    def find(self, name: str) -> Encoding:
        return names.find(name)

    def presets(self) -> Mapping[str, Encoding]:
        return names.presets()


FAMILY = _Parametric()
