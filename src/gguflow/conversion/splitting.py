"""A plan cut into the plans of shards, as gguf-split cuts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguflow.arguments import flag, integer
from gguflow.container.integrity import for_shard, without_set
from gguflow.container.payload_keys import keys_of_payloads
from gguflow.container.shards import MAX_SHARDS, shard_metadata
from gguflow.conversion.plan import Plan, PlannedTensor, plan_file
from gguflow.errors import UsageError


@dataclass(frozen=True)
class Split:
    """How an output is cut into shards: by one of the two limits, as gguf-split does.

    max_nbytes: most bytes of the tensors of a shard, without headers; a larger tensor gets a shard of its
        own.
    max_tensors: most tensors of a shard.
    is_first_empty: whether the first shard has the metadata only.

    Raises UsageError if both limits are given, or none, or if one is less than 1.
    """

    max_nbytes: int | None = None
    max_tensors: int | None = None
    is_first_empty: bool = False

    def __post_init__(self) -> None:
        if (self.max_nbytes is None) == (self.max_tensors is None):
            raise UsageError("to split, pass either --split-max-size or --split-max-tensors")
        flag(self.is_first_empty, "is_first_empty")
        for name in ("max_nbytes", "max_tensors"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, integer(value, name, 1))


def split(whole: Plan, how: Split) -> tuple[Plan, ...]:
    """The plans of the shards, in order: the first has the metadata, each has its tensors and the keys that
    say which shard it is.

    whole: the plan of the output as one file.
    how: where it is cut.

    Raises UsageError if there would be more shards than split.count can say.
    """
    groups: list[list[PlannedTensor]] = [[], []] if how.is_first_empty and whole.tensors else [[]]
    nbytes = 0
    for i, planned in enumerate(whole.tensors):
        size = planned.nbytes + planned.padding
        is_full = i and i % how.max_tensors == 0 if how.max_tensors else nbytes + size > (how.max_nbytes or 0)
        if is_full and groups[-1]:
            groups.append([])
            nbytes = 0
        groups[-1].append(planned)
        nbytes += size
    if len(groups) > MAX_SHARDS:
        raise UsageError(
            f"{len(groups)} shards are more than a model can have ({MAX_SHARDS}); let each hold more"
        )
    plans: list[Plan] = []
    for number, group in enumerate(groups):
        metadata = {
            key: value for key, value in whole.metadata.items() if key == "general.alignment" or number == 0
        }
        kept = keys_of_payloads(metadata)
        metadata = (
            without_set(metadata)
            | kept
            | shard_metadata(number, len(groups), len(whole.tensors))
            | for_shard(whole.metadata, len(group))
        )
        first = sum(map(len, groups[:number]))
        plans.append(
            plan_file(
                whole.architecture,
                whole.recipe,
                metadata,
                _rebase(group),
                whole.imatrix_digest,
                first,
                whole.method,
            )
        )
    return tuple(plans)


def _rebase(tensors: Sequence[PlannedTensor]) -> list[PlannedTensor]:
    """The same tensors from the start of a data section."""
    start = tensors[0].offset if tensors else 0
    return [replace(planned, offset=planned.offset - start) for planned in tensors]
