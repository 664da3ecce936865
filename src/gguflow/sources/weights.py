"""Which files of a checkpoint directory are its weights: the names that the Hugging Face libraries give them.

    model.safetensors                         one file
    model-00001-of-00003.safetensors          shards, with model.safetensors.index.json
    model.fp16.safetensors                    a variant, "fp16"; its shards are
    model.fp16-00001-of-00003.safetensors     these, with model.safetensors.index.fp16.json, or
    model-00001-of-00003.fp16.safetensors     these, from older releases
    consolidated.safetensors                  Mistral's own copy of the same weights
    adapter_model.safetensors                 no model, but what PEFT adds to one

Where there are several, the sound choice is made and said (H-018), or there is an error that names them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gguflow.errors import Finding, InvalidError, UnsupportedError, listed, warn

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"

_INDEX = re.compile(r"(.+)\.safetensors\.index(\.[\w-]+)?\.json")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[\w-]+)?\.safetensors")
_MAIN = "model"
COPY = "consolidated"
"""What the names of files in Mistral's own form begin with."""
_ADAPTER = "adapter_model"


@dataclass(frozen=True)
class Shard:
    """What the name of a shard says.

    stem: the part that the names of all shards share, with the variant ("model.fp16").
    number: its number, from 1.
    n_shards: how many shards there are.
    """

    stem: str
    number: int
    n_shards: int

    @classmethod
    def of(cls, name: str) -> Shard | None:
        """The parts of a name, None if it is not the name of one of several shards.

        name: the name of a file.
        """
        match = _SHARD.fullmatch(name)
        if match is None:
            return None
        shard = cls(match[1] + (match[4] or ""), int(match[2]), int(match[3]))
        return shard if 1 <= shard.number <= shard.n_shards else None


@dataclass
class Weights:
    """The files that hold one copy of the weights.

    stem: the part that their names share.
    index: the name of the index, None if there is none.
    single: the file that holds all of the weights, None if there is none.
    shards: the names of shards, by the number of shards that the names state, then by the shard's number.
    """

    stem: str
    index: str | None = None
    single: str | None = None
    shards: dict[int, dict[int, str]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """All files of weights, in order."""
        single = () if self.single is None else (self.single,)
        return (*single, *(shards[i] for _, shards in sorted(self.shards.items()) for i in sorted(shards)))

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may name: the index, or else the files."""
        return self.files if self.index is None else (self.index,)

    def others(self, indexed: set[str]) -> list[str]:
        """The files that the index does not name.

        indexed: the names in the index.
        """
        return [name for name in self.files if name not in indexed]


def is_index(name: str) -> bool:
    """Whether a file has the name of an index.

    name: the name of the file.
    """
    return name.endswith(".index.json") or _INDEX.fullmatch(name) is not None


def found(names: Sequence[str]) -> dict[str, Weights]:
    """The copies of weights in a directory, by stem.

    names: the names of the directory's files.
    """
    copies: dict[str, Weights] = {}
    for name in names:
        if match := _INDEX.fullmatch(name):
            stem = match[1] + (match[2] or "")
            copies.setdefault(stem, Weights(stem)).index = name
        elif shard := Shard.of(name):
            copy = copies.setdefault(shard.stem, Weights(shard.stem))
            copy.shards.setdefault(shard.n_shards, {})[shard.number] = name
        elif name.endswith(SUFFIX):
            stem = name.removesuffix(SUFFIX)
            copies.setdefault(stem, Weights(stem)).single = name
    return copies


def choose(directory: Path, names: Sequence[str]) -> Weights:
    """The weights of a checkpoint directory: those with an index, or one file, or a complete set of shards.

    If there are several copies, the choice is reported as a warning (H-018).

    directory: the directory, for messages.
    names: the names of its files.

    Raises InvalidError (H-004 to H-006), UnsupportedError (H-016).
    """
    copies = found(names)
    if not copies:
        raise _no_weights(directory, names)
    usable = _without_copies(copies)
    if all(stem.startswith(_ADAPTER) for stem in usable):
        raise adapter_error(directory)
    indexed = [copy for copy in usable.values() if copy.index is not None]
    if len(indexed) > 1:
        several = listed([str(copy.index) for copy in indexed])
        raise InvalidError(
            directory, Finding("H-005", f"several indexes; name the one that is meant: {several}")
        )
    if indexed:
        chosen = indexed[0]
    elif _MAIN in usable:
        chosen = usable[_MAIN]
    elif len(usable) == 1:
        (chosen,) = usable.values()
    else:
        several = listed([name for copy in usable.values() for name in copy.files])
        message = f"several {SUFFIX} files and no index; name the one that is meant: {several}"
        raise InvalidError(directory, Finding("H-005", message))
    if chosen.index is None:
        _check_set(directory, chosen)
    left_out = [name for copy in copies.values() if copy is not chosen for name in copy.names]
    if left_out:
        message = f"only {chosen.names[0]} is converted, without {listed(left_out)} beside it"
        warn(directory, Finding("H-018", message))
    return chosen


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; empty if it cannot be read, because they are used for advice only.

    directory: any directory.
    """
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def complete_set(names: Sequence[str], shard: Shard) -> tuple[str, ...]:
    """All shards of a set in order, empty if one is missing.

    names: the names of the directory's files.
    shard: one shard of the set.
    """
    shards = found(names)[shard.stem].shards[shard.n_shards]
    return tuple(shards[i] for i in sorted(shards)) if len(shards) == shard.n_shards else ()


def adapter_error(directory: Path) -> UnsupportedError:
    """The error for a directory that holds an adapter (H-016).

    directory: the directory.
    """
    message = (
        "this is an adapter (LoRA), not a model; merge it into its base model "
        "(PEFT: merge_and_unload(), then save_pretrained), and convert the result"
    )
    return UnsupportedError(directory, Finding("H-016", message))


def _without_copies(copies: Mapping[str, Weights]) -> dict[str, Weights]:
    """Without Mistral's own copy, adapters, and variants of a copy that is there itself, where something
    remains.
    """
    kept = {stem: copy for stem, copy in copies.items() if not stem.startswith((COPY, _ADAPTER))}
    kept = kept or {stem: copy for stem, copy in copies.items() if not stem.startswith(_ADAPTER)}
    kept = kept or dict(copies)
    return {
        stem: copy for stem, copy in kept.items() if not any(stem.startswith(f"{other}.") for other in kept)
    }


def _check_set(directory: Path, weights: Weights) -> None:
    """Prove that weights without an index are one file, or all shards of one set; of the latter, warn."""
    if not weights.shards:
        return
    if weights.single is not None or len(weights.shards) > 1:
        several = [weights.single] if weights.single is not None else []
        several += [next(iter(shards.values())) for shards in weights.shards.values()]
        rule = "H-005" if all(len(shards) == n for n, shards in weights.shards.items()) else "H-006"
        message = f"several copies of the weights and no index; remove all but one: {listed(several)}"
        raise InvalidError(directory, Finding(rule, message))
    ((n_shards, shards),) = weights.shards.items()
    if len(shards) < n_shards:
        missing = next(i for i in range(1, n_shards + 1) if i not in shards)
        like = next(iter(shards.values()))
        name = re.sub(r"-\d{5}-of-", f"-{missing:05d}-of-", like)
        message = (
            f"{n_shards - len(shards)} of {n_shards} shards are missing ({name}), and so is their index; "
            "download the checkpoint again"
        )
        raise InvalidError(directory, Finding("H-006", message))
    if n_shards > 1:
        message = f"there is no index of the {n_shards} shards {shards[1]} ...; all of them are converted"
        warn(directory, Finding("H-018", message))


def _no_weights(directory: Path, names: Sequence[str]) -> InvalidError:
    """The error for a directory without weights, which says what else is there (H-004)."""
    kinds = sorted({suffix for name in names if (suffix := Path(name).suffix) in _HINTS})
    hints = "".join(f"; there is a {kind} file: {_HINTS[kind]}" for kind in kinds)
    return InvalidError(directory, Finding("H-004", f"no {SUFFIX} file{hints}"))


_SAVE = "only safetensors are read from a directory; load the model with transformers and save it again"
_UNFINISHED = "a download that has not ended; download it again"
_HINTS = {
    ".incomplete": _UNFINISHED,
    ".part": _UNFINISHED,
    ".crdownload": _UNFINISHED,
    ".aria2": _UNFINISHED,
    ".bin": _SAVE,
    ".pt": _SAVE,
    ".pth": _SAVE,
    ".gguf": "name it to convert it",
    ".npz": "save the model as safetensors",
}
