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
from gguflow.models.rules import Rule, same

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
    a file that no program can load.

    config: config.json.
    key: of their number.

    Raises InvalidError (M-003).
    """
    promised = config.integer(key, 0, minimum=0)
    if not promised:
        return 0
    first = n_layers(config)
    present = {int(match[1]) for name in config.tensors if (match := _NEXT_LAYER.fullmatch(name))}
    found = sum(1 for i in present if first <= i < first + promised)
    if found < promised:
        config.applied.add("next-tokens-absent")
    return found


def put_number(keys: Keys, n: int) -> None:
    """The key for the number of these blocks, where there are some.

    keys: where it is put.
    n: number of these blocks.
    """
    if n:
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
    norm: str = "shared_head.norm",
) -> Iterator[Rule]:
    """What such a block has beside a usual one: two norms, whose results are projected together.

    p: hyper-parameters.
    i: number of the block.
    source: what its names begin with in the checkpoint; {i} is the block.
    norm: name of the last norm, without .weight.
    """
    source, block = source.replace("{i}", str(i)), f"blk.{i}.nextn"
    yield same(f"{source}.eh_proj.weight", f"{block}.eh_proj.weight", (p.hidden, 2 * p.hidden))
    yield same(f"{source}.enorm.weight", f"{block}.enorm.weight", (p.hidden,))
    yield same(f"{source}.hnorm.weight", f"{block}.hnorm.weight", (p.hidden,))
    yield same(f"{source}.{norm}.weight", f"{block}.shared_head_norm.weight", (p.hidden,), required=False)
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
