"""Blocks that predict further tokens (multi-token prediction, MTP), numbered after the last block of a model.

A GGUF file counts them in `block_count`, and says in `nextn_predict_layers` how many they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguflow.container.metadata import u32
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Rule, same, shifted

_LAYER = re.compile(r"model\.layers\.(\d{1,6})\..*")
_NEXT_LAYER = re.compile(r"(?:.*\.)?layers\.(\d{1,6})\.eh_proj\.weight")


def layer_of(name: str) -> int | None:
    """The number of the block that a checkpoint's tensor belongs to; None outside blocks.

    name: of the tensor, as in `model.layers.3.mlp.gate.weight`.
    """
    match = _LAYER.fullmatch(name)
    return None if match is None else int(match[1])


def n_next(config: Document, key: str = "num_nextn_predict_layers") -> int:
    """Number of these blocks that are written: those that config.json promises and whose tensors are there.

    Training programs drop the tensors and leave the number in config.json; a block without tensors would make
    a file that no program can load. None is written if the user wants none.

    config: config.json.
    key: of their number.

    Raises InvalidError (M-003).
    """
    promised = config.integer(key, 0, minimum=0)
    if not promised or not config.next_tokens:
        return 0
    first = n_layers(config)
    present = {int(match[1]) for name in config.tensors if (match := _NEXT_LAYER.fullmatch(name))}
    found = sum(1 for i in present if first <= i < first + promised)
    if found < promised:
        config.applied.add("next-tokens-absent")
    return found


def n_named(config: Document, key: str, pattern: str) -> int:
    """The same of models that have names of their own for these blocks, and may not say how many they are.

    config: config.json.
    key: of their number.
    pattern: a regular expression for the names of their tensors, with the number of a block as its group.

    Raises InvalidError (M-003).
    """
    if not config.next_tokens:
        return 0
    promised = config.integer(key, 0, minimum=0)
    matches = (re.fullmatch(pattern, name) for name in config.tensors)
    present = 1 + max((int(match[1]) for match in matches if match), default=-1)
    if present < promised:
        config.applied.add("next-tokens-absent")
    return min(present, promised) if promised else present


def put_number(keys: Keys, n: int, *, writes_zero: bool = True) -> None:
    """The key for the number of these blocks.

    keys: where it is put.
    n: number of these blocks.
    writes_zero: whether llama.cpp writes it where config.json says that there are none; where none are wanted
        it is never written.
    """
    is_said = keys.config.next_tokens and "num_nextn_predict_layers" in keys.config
    if n or (writes_zero and is_said):
        keys.put("nextn_predict_layers", u32(n))


def is_next(p: Parameters, i: int) -> bool:
    """Whether a block predicts a further token.

    p: hyper-parameters.
    i: number of the block.
    """
    return i >= p.n_layers - p.integer("nextn_predict_layers", 0)


def rules(
    p: Parameters,
    i: int,
    *,
    source: str = "model.layers.{i}",
    names: tuple[str, str, str, str] = ("eh_proj", "enorm", "hnorm", "shared_head.norm"),
    shift: bool = False,
) -> Iterator[Rule]:
    """What such a block has beside a usual one: two norms, whose results are projected together.

    p: hyper-parameters.
    i: number of the block.
    source: what its names begin with in the checkpoint; {i} is the block.
    names: of the projection, the norms of embeddings and of hidden states, and the last norm.
    shift: whether norms are stored as the difference from one.
    """
    source, block = source.replace("{i}", str(i)), f"blk.{i}.nextn"
    matrix = (p.hidden, 2 * p.hidden)
    yield same(f"{source}.{names[0]}.weight", f"{block}.eh_proj.weight", matrix)
    norm = shifted if shift else same
    yield norm(f"{source}.{names[1]}.weight", f"{block}.enorm.weight", (p.hidden,))
    yield norm(f"{source}.{names[2]}.weight", f"{block}.hnorm.weight", (p.hidden,))
    yield norm(f"{source}.{names[3]}.weight", f"{block}.shared_head_norm.weight", (p.hidden,), required=False)
    matrix = (p.n_tokens, p.hidden)
    yield same(f"{source}.embed_tokens.weight", f"{block}.embed_tokens.weight", matrix, required=False)
    yield same(
        f"{source}.shared_head.head.weight", f"{block}.shared_head_head.weight", matrix, required=False
    )


def left_out(name: str, config: Document) -> bool:
    """Whether a tensor belongs to a block after the last one, in a family whose graph has none of them.

    name: of the tensor.
    config: config.json.
    """
    layer, first = layer_of(name), n_layers(config)
    return layer is not None and first <= layer < first + max(
        config.integer("num_nextn_predict_layers", 1, minimum=0), 1
    )
