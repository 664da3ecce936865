"""Tensors in the parts that bitsandbytes keeps them in: read as the one tensor that they are, or refused by
rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.errors import FileError, InvalidError, UnsupportedError
from gguflow.parametric import codebooks
from gguflow.sources import TensorReader, open_checkpoint
from gguflow.sources.bitsandbytes import MAX_STATE_NBYTES
from testing.source_files import safetensors_bytes, write_checkpoint

Tensors = dict[str, NDArray[Any]]
STATE = "w.quant_state.bitsandbytes__nf4"


def state(**changes: Any) -> NDArray[np.uint8]:
    """The JSON of a nested tensor of 3 x 64 weights, with changes; None leaves a key out."""
    fields: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [3, 64]}
    fields |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5} | changes
    return as_bytes(json.dumps({key: value for key, value in fields.items() if value is not None}))


def as_bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def group() -> Tensors:
    """A nested tensor, codes 0 to 15 in turn."""
    return {
        "w": np.tile(np.array([0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF], np.uint8), 12).reshape(-1, 1),
        "w.absmax": np.array([0, 127, 255], np.uint8),
        "w.quant_map": codebooks.NF4,
        "w.nested_absmax": np.array([0.25], np.float32),
        "w.nested_quant_map": codebooks.dynamic(),
        STATE: state(),
    }


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def with_(name: str, value: NDArray[Any]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: value})


def with_state(**changes: Any) -> Callable[[Tensors], object]:
    return with_(STATE, state(**changes))


def of_another_kind(tensors: Tensors) -> None:
    tensors["w.quant_state.bitsandbytes__int3"] = tensors.pop(STATE)


BROKEN: dict[str, tuple[str, type[FileError], Callable[[Tensors], object]]] = {
    "no codes": ("Q-001", InvalidError, without("w")),
    "no absmax": ("Q-001", InvalidError, without("w.absmax")),
    "no codebook": ("Q-001", InvalidError, without("w.quant_map")),
    "no codebook of scales": ("Q-001", InvalidError, without("w.nested_quant_map")),
    "state of floats": ("Q-002", InvalidError, with_(STATE, np.zeros(30, np.float32))),
    "state too long": ("Q-002", InvalidError, with_(STATE, np.full(MAX_STATE_NBYTES + 1, 32, np.uint8))),
    "state is a list": ("Q-002", InvalidError, with_(STATE, as_bytes("[]"))),
    "no block size": ("Q-002", InvalidError, with_state(blocksize=None)),
    "a key too many": ("Q-002", InvalidError, with_state(more=1)),
    "block size is true": ("Q-002", InvalidError, with_state(blocksize=True)),
    "another kind inside": ("Q-002", InvalidError, with_state(quant_type="fp4")),
    "shape of text": ("Q-002", InvalidError, with_state(shape=["3", "64"])),
    "shape with a zero": ("Q-002", InvalidError, with_state(shape=[0, 64])),
    "offset of text": ("Q-002", InvalidError, with_state(nested_offset="0")),
    "a kind of tomorrow": ("Q-003", UnsupportedError, of_another_kind),
    "blocks of 4096": ("Q-003", UnsupportedError, with_state(blocksize=4096)),
    "blocks of 0": ("Q-003", UnsupportedError, with_state(blocksize=0)),
    "blocks of -64": ("Q-003", UnsupportedError, with_state(blocksize=-64)),
    "super-blocks of 1": ("Q-003", UnsupportedError, with_state(nested_blocksize=1)),
    "nested scales in f16": ("Q-003", UnsupportedError, with_state(nested_dtype="float16")),
    "weights of float64": ("Q-003", UnsupportedError, with_state(dtype="float64")),
    "no dimensions": ("Q-003", UnsupportedError, with_state(shape=[])),
    "nine dimensions": ("Q-003", UnsupportedError, with_state(shape=[1] * 8 + [192])),
    "shape of 2**126": ("Q-003", UnsupportedError, with_state(shape=[2**63 - 1, 2**63 - 1])),
    "shape of 2**120": ("Q-004", InvalidError, with_state(shape=[2**60, 2**28, 2**28])),
    "another shape": ("Q-004", InvalidError, with_state(shape=[3, 66])),
    "scales of another size": ("Q-004", InvalidError, with_("w.absmax", np.zeros(4, np.uint8))),
    "scales of another dtype": ("Q-004", InvalidError, with_("w.absmax", np.zeros(3, np.float32))),
    "meta-scales of another size": ("Q-004", InvalidError, with_("w.nested_absmax", np.zeros(2, np.float32))),
    "codebook of 8": ("Q-004", InvalidError, with_("w.quant_map", codebooks.NF4[:8])),
    "another codebook": ("Q-005", UnsupportedError, with_("w.quant_map", codebooks.AF4)),
    "another codebook of scales": (
        "Q-005",
        UnsupportedError,
        with_("w.nested_quant_map", np.linspace(1, -1, 256, dtype=np.float32)),
    ),
    "codebook of scales with a NaN": (
        "Q-005",
        UnsupportedError,
        with_("w.nested_quant_map", np.full(256, np.nan, np.float32)),
    ),
    "negative offset": ("Q-006", InvalidError, with_state(nested_offset=-0.5)),
    "offset beyond binary32": ("Q-006", InvalidError, with_state(nested_offset=1e39)),
}


@pytest.mark.parametrize(("rule", "error", "change"), BROKEN.values(), ids=BROKEN)
def test_broken_groups_are_refused_by_rule(
    tmp_path: Path, rule: str, error: type[FileError], change: Callable[[Tensors], object]
) -> None:
    tensors = group()
    change(tensors)
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(tensors))
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert (caught.value.finding.rule, type(caught.value)) == (rule, error)
    assert str(path) in str(caught.value)


def decoded(path: Path, name: str = "w") -> NDArray[np.float32]:
    checkpoint = open_checkpoint(path)
    with TensorReader(checkpoint) as reader:
        tensor = checkpoint.tensors[name]
        return reader.read(tensor, 0, tensor.n_weights).view(np.float32).reshape(tensor.shape)


def test_a_group_is_one_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(group() | {"norm": np.ones(4, np.float32)}))
    tensors = open_checkpoint(path).tensors
    assert list(tensors) == ["w", "norm"]
    assert (tensors["w"].shape, tensors["w"].dtype, tensors["w"].is_lossy) == ((3, 64), "nf4_b64_dq", True)
    scales = codebooks.dynamic()[[0, 127, 255]] * np.float32(0.25) + np.float32(0.5)
    assert np.array_equal(decoded(path), np.tile(codebooks.NF4, (3, 4)) * scales[:, None])


def test_a_codebook_of_scales_that_was_rounded_elsewhere(tmp_path: Path) -> None:
    """Read with its own values, as scales that are not nested; over several super-blocks, and blocks of
    several chunks.
    """
    rng = np.random.default_rng(2)
    book = np.nextafter(codebooks.dynamic(), np.float32(2), dtype=np.float32)
    n_blocks = 20_000
    tensors = group() | {
        "w": rng.integers(0, 256, (32 * n_blocks, 1), np.uint8),
        "w.absmax": rng.integers(128, 256, n_blocks, np.uint8),
        "w.nested_absmax": rng.uniform(1, 2, -(-n_blocks // 256)).astype(np.float32),
        "w.nested_quant_map": book,
        STATE: state(shape=[n_blocks, 64]),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(tensors))
    assert open_checkpoint(path).tensors["w"].dtype == "nf4_b64"
    scales = book[tensors["w.absmax"]] * np.repeat(tensors["w.nested_absmax"], 256)[:n_blocks] + np.float32(
        0.5
    )
    codes = np.stack([tensors["w"] >> 4, tensors["w"] & 15], axis=-1).reshape(n_blocks, 64)
    assert np.array_equal(decoded(path), codebooks.NF4[codes] * scales[:, None])


def test_parts_in_different_shards(tmp_path: Path) -> None:
    whole = group()
    shards = {
        "a.safetensors": {name: whole[name] for name in list(whole)[:2]},
        "b.safetensors": {name: whole[name] for name in list(whole)[2:]},
    }
    directory = write_checkpoint(
        tmp_path / "cut", shards, {name: shard for shard, tensors in shards.items() for name in tensors}
    )
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(whole))
    assert np.array_equal(decoded(directory), decoded(tmp_path / "x.safetensors"))


def test_codes_in_another_dtype(tmp_path: Path) -> None:
    """As bnb_4bit_quant_storage has it: the same bytes."""
    plain, wide = group(), group()
    wide["w"] = wide["w"].reshape(-1).view(np.float32)
    for name, tensors in (("plain", plain), ("wide", wide)):
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors_bytes(tensors))
    assert np.array_equal(decoded(tmp_path / "plain.safetensors"), decoded(tmp_path / "wide.safetensors"))
