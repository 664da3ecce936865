"""To bitsandbytes and back. fixtures/bitsandbytes was written by bitsandbytes itself
(tools/compare bitsandbytes): what equals it, it reads.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import gguflow
from gguflow import conversion, exporting, recipes, sources
from gguflow.cli import main
from gguflow.errors import InvalidError, UsageError
from gguflow.parametric import Encoder, Payload, codebooks, find, joined
from gguflow.parametric.views import View, content
from testing.checkpoints import FIXTURES, tiny_llama
from testing.experts import checkpoint as mixture
from testing.source_files import safetensors_bytes

GOLDEN = FIXTURES / "bitsandbytes"
NAMES = ("nf4_b64", "nf4_b64_dq", "fp4_b64")
CONFIG = {
    "quantization_config": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
    }
}

Tensors = dict[str, NDArray[Any]]


def states(tensors: Tensors) -> dict[str, dict[str, Any]]:
    return {name: json.loads(tensors[name].tobytes()) for name in tensors if ".quant_state." in name}


def encoded(x: NDArray[np.float32], name: str, given: dict[str, Any] | None) -> Payload:
    encoder = Encoder(find(name), x.shape, given=given)
    return Payload(joined(encoder, [encoder.encode_chunk(0, x)]))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_codes_and_scales(name: str) -> None:
    """Of the same weights; where scales are nested, with the offset that bitsandbytes found."""
    theirs = load_file(GOLDEN / f"{name}.safetensors")
    for key, state in states(theirs).items():
        tensor = key.partition(".quant_state.")[0]
        given = {"offset": np.float32(state["nested_offset"])} if "nested_offset" in state else None
        payload = encoded(load_file(GOLDEN / "input.safetensors")[tensor], name, given)
        codes = theirs[tensor].reshape(-1).copy()
        if payload.geometry.n_weights % 2:
            codes[-1] &= 0xF0
        assert np.array_equal(content(payload, 0, View.CODES), codes), tensor
        view = View.SCALES if given is None else View.SCALE_CODES
        assert np.array_equal(content(payload, 0, view), theirs[f"{tensor}.absmax"].view(np.uint8)), tensor


@pytest.mark.parametrize("name", NAMES)
def test_what_bitsandbytes_wrote_is_read_and_written(tmp_path: Path, name: str) -> None:
    """Decoded as it decodes; through GGUF and back, its own bytes, but for a last nibble that belongs to no
    weight.
    """
    path = conversion.convert(
        GOLDEN / f"{name}.safetensors", tmp_path / "x.gguf", type=name, architecture="any"
    ).output
    assert gguflow.validate(path, "strict") == []
    expected = load_file(GOLDEN / f"{name}.decoded.safetensors")
    with gguflow.open(path) as model:
        for tensor, weights in expected.items():
            assert np.array_equal(model[tensor].dequantize(), weights), tensor
    exporting.export(path, tmp_path / "back.safetensors", form="bnb", dtype="f32")
    theirs, ours = load_file(GOLDEN / f"{name}.safetensors"), load_file(tmp_path / "back.safetensors")
    theirs["odd.weight"].reshape(-1)[-1] &= 0xF0
    assert states(ours) == states(theirs)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        if ".quant_state." not in key:
            assert (ours[key].dtype, ours[key].shape) == (tensor.dtype, tensor.shape) and np.array_equal(
                ours[key], tensor
            ), key


def test_nested_scales_are_made_whole(tmp_path: Path) -> None:
    """nf4_b64 holds what nf4_b64_dq does, and so does either with zstd; nothing else does."""
    source = GOLDEN / "nf4_b64_dq.safetensors"
    expected = load_file(GOLDEN / "nf4_b64_dq.decoded.safetensors")
    for name in ("nf4_b64", "nf4_b64+zstd", "nf4_b64_dq+zstd", "copy"):
        path = conversion.convert(
            source, tmp_path / "x.gguf", type=name, architecture="any", overwrite=True
        ).output
        assert gguflow.validate(path, "strict") == []
        with gguflow.open(path) as model:
            assert model.metadata["gguflow.encodings"] == ["nf4_b64_dq" if name == "copy" else name]
            assert all(
                np.array_equal(model[tensor].dequantize(), weights) for tensor, weights in expected.items()
            )
    for name in ("nf4_b64_dq", "fp4_b64", "q4_0"):
        with pytest.raises(UsageError, match=r"quantized already.*--allow-requantize"):
            conversion.convert(
                GOLDEN / "nf4_b64.safetensors", tmp_path / "no.gguf", type=name, architecture="any"
            )
    anew = recipes.Options(allow_requantize=True)
    conversion.convert(source, tmp_path / "anew.gguf", type="int8_b128", architecture="any", options=anew)


def as_checkpoint(exported: Path, original: Path, directory: Path) -> Path:
    """The directory that transformers would have saved."""
    shutil.copytree(original, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((original / "config.json").read_text()) | CONFIG
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copy(exported, directory / "model.safetensors")
    return directory


def stored(path: Path) -> dict[str, tuple[str, bytes]]:
    with gguflow.open(path) as model:
        return {name: (repr(tensor), tensor.raw.tobytes()) for name, tensor in model.items()}


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("name", ["nf4_b64", "fp4_b64+zstd"])
def test_a_checkpoint_there_and_back(tmp_path: Path, name: str, io: str) -> None:
    """With rows of Q and K in either order: the second file has the payloads of the first."""
    original = tiny_llama(tmp_path / "original", hidden=128, ffn=192, n_layers=1, dtype="bfloat16")
    first = conversion.convert(original, tmp_path / "first.gguf", type=name).output
    exporting.export(
        first, tmp_path / "bnb.safetensors", form="bnb", io=io, threads=2, memory_limit=2 * 12 * 256
    )
    directory = as_checkpoint(tmp_path / "bnb.safetensors", original, tmp_path / "bnb")
    second = conversion.convert(directory, tmp_path / "second.gguf", type=name, io=io).output
    assert stored(first) == stored(second)
    exporting.export(first, tmp_path / "plain.safetensors", dtype="f32")
    plain = load_file(tmp_path / "plain.safetensors")
    checkpoint = sources.open_checkpoint(directory)
    with sources.TensorReader(checkpoint) as reader:
        for tensor in checkpoint.tensors.values():
            if tensor.encoding is not None:
                weights = reader.read(tensor, 0, tensor.n_weights).view(np.float32).reshape(tensor.shape)
                assert np.array_equal(weights, plain[tensor.name]), tensor.name


def test_nested_scales_of_rows_that_move(tmp_path: Path) -> None:
    """Rows of Q and K leave their super-blocks: these two get scales of their own, and all values stay."""
    original = tiny_llama(tmp_path / "original", hidden=256, ffn=512, n_layers=1, dtype="bfloat16")
    first = conversion.convert(original, tmp_path / "first.gguf", type="nf4_b64_dq").output
    exporting.export(first, tmp_path / "bnb.safetensors", form="bnb")
    exported = load_file_of(tmp_path / "bnb.safetensors")
    nested = {name.removesuffix(".nested_absmax") for name in exported if name.endswith(".nested_absmax")}
    all_of_them = {name.partition(".quant_state.")[0] for name in exported if ".quant_state." in name}
    assert {name.split(".")[-2] for name in all_of_them - nested} == {"q_proj", "k_proj"}
    directory = as_checkpoint(tmp_path / "bnb.safetensors", original, tmp_path / "bnb")
    with pytest.raises(
        UsageError, match=r"attn_[qk].*quantized already"
    ):  # their scales are not nested any more
        conversion.convert(directory, tmp_path / "no.gguf", type="nf4_b64_dq")
    second = conversion.convert(directory, tmp_path / "second.gguf", type="copy").output
    with gguflow.open(first) as one, gguflow.open(second) as other:
        for name, tensor in one.items():
            assert np.array_equal(tensor.dequantize(), other[name].dequantize()), name
            assert np.array_equal(tensor.raw, other[name].raw) or any(
                kind in name for kind in ("attn_q.", "attn_k.", "norm")
            ), name


def load_file_of(path: Path) -> set[str]:
    from gguflow.sources import safetensors

    return set(safetensors.read_header(path)[1])


def test_a_checkpoint_with_nested_scales(tmp_path: Path) -> None:
    """Q and K of it become nf4_b64 where nf4_b64_dq is asked for, and the plan says why."""
    original = tiny_llama(tmp_path / "original", hidden=128, ffn=128, n_layers=1, dtype="float32")
    rng = np.random.default_rng(0)
    shapes = {name: tensor.shape for name, tensor in sources.open_checkpoint(original).tensors.items()}
    tensors: Tensors = {}
    for name, shape in shapes.items():
        if "proj" not in name:
            tensors[name] = rng.standard_normal(shape).astype(np.float32)
            continue
        payload = gguflow.quantize(rng.standard_normal(shape).astype(np.float32), "nf4_b64_dq")
        tensors |= parts(name, Payload(payload))
    directory = tmp_path / "bnb"
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(tensors))
    as_checkpoint(tmp_path / "x.safetensors", original, directory)
    plan = conversion.prepare(directory, tmp_path / "x.gguf", type="nf4_b64_dq").targets[0].plans[0]
    chosen = {planned.name: planned for planned in plan.tensors}
    assert (
        chosen["blk.0.attn_q.weight"].format.name == "nf4_b64"
        and "rows move between super-blocks" in chosen["blk.0.attn_q.weight"].rule
    )
    assert (
        chosen["blk.0.attn_v.weight"].format.name == "nf4_b64_dq"
        and "as in the source" in chosen["blk.0.attn_v.weight"].rule
    )
    path = conversion.convert(directory, tmp_path / "x.gguf", type="nf4_b64_dq").output
    assert gguflow.validate(path, "strict") == []
    compared = {tensor.name: tensor for tensor in gguflow.compare(directory, path).tensors}
    assert all(
        compared[name].measures.relative_error == 0
        for name, planned in chosen.items()
        if "as in the source" in planned.rule
    )


def parts(name: str, payload: Payload) -> Tensors:
    """A nested payload of one chunk, as bitsandbytes would store it."""
    fields = {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "float32",
        "shape": list(payload.shape),
        "nested_blocksize": 256,
    }
    fields |= {"nested_dtype": "float32", "nested_offset": float(payload.tables["offset"][0])}
    return {
        name: content(payload, 0, View.CODES).reshape(-1, 1),
        f"{name}.absmax": content(payload, 0, View.SCALE_CODES),
        f"{name}.nested_absmax": content(payload, 0, View.META).view(np.float32),
        f"{name}.nested_quant_map": codebooks.dynamic(),
        f"{name}.quant_map": codebooks.NF4,
        f"{name}.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(fields).encode(), np.uint8),
    }


def test_experts(tmp_path: Path) -> None:
    """A stack leaves as its matrices, and comes back as it was."""
    mixture(tmp_path / "original", "llama", dtype="float32")
    rows_of_96 = recipes.Options(tensor_types=("down=f16",))
    first = conversion.convert(
        tmp_path / "original", tmp_path / "first.gguf", type="nf4_b64", options=rows_of_96
    ).output
    exporting.export(first, tmp_path / "bnb.safetensors", form="bnb", dtype="f32")
    directory = as_checkpoint(tmp_path / "bnb.safetensors", tmp_path / "original", tmp_path / "bnb")
    second = conversion.convert(directory, tmp_path / "second.gguf", type="copy").output
    one, other = stored(first), stored(second)
    names = [name for name in one if "exps" in name and "down" not in name]
    assert names and all(one[name] == other[name] for name in names)


def test_rows_that_are_not_whole_blocks(tmp_path: Path) -> None:
    """Nothing can be moved: said with the name of the tensor, and nothing is written."""
    original = tiny_llama(tmp_path / "original", hidden=96, ffn=128, n_layers=1)
    path = conversion.convert(original, tmp_path / "x.gguf", type="nf4_b64").output
    with pytest.raises(
        UsageError,
        match=r"self_attn\.[qk]_proj\.weight: rows of 96 weights are not whole blocks.*must be reordered",
    ):
        exporting.export(path, tmp_path / "x.safetensors", form="bnb")
    assert not (tmp_path / "x.safetensors").exists()


def test_payloads_move_between_files(tmp_path: Path) -> None:
    """From GGUF to GGUF, too: the codes stay, whatever is around them."""
    original = tiny_llama(tmp_path / "original", hidden=128, ffn=192, n_layers=1)
    direct = {
        name: conversion.convert(original, tmp_path / f"{name}.gguf", type=name).output
        for name in ("nf4_b64", "nf4_b64+zstd", "nf4_b64_dq")
    }
    for source, name in (("nf4_b64", "nf4_b64+zstd"), ("nf4_b64+zstd", "nf4_b64")):
        moved = conversion.convert(direct[source], tmp_path / "moved.gguf", type=name, overwrite=True).output
        assert stored(moved) == stored(direct[name])
    moved = conversion.convert(
        direct["nf4_b64_dq"], tmp_path / "moved.gguf", type="nf4_b64", overwrite=True
    ).output
    assert all(
        tensor.measures.relative_error == 0 for tensor in gguflow.compare(direct["nf4_b64_dq"], moved).tensors
    )


def test_a_conversion_of_a_group_goes_on(tmp_path: Path) -> None:
    """Interrupted after any chunk, to the same bytes."""
    x = np.random.default_rng(0).standard_normal((600, 2048)).astype(np.float32)
    payload = Payload(gguflow.quantize(x, "nf4_b64"))
    codes, scales = (
        np.concatenate([content(payload, i, view) for i in range(payload.n_chunks)])
        for view in (View.CODES, View.SCALES)
    )
    fields = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [600, 2048]}
    tensors = {
        "w.weight": codes.reshape(-1, 1),
        "w.weight.absmax": scales.view(np.float32),
        "w.weight.quant_map": codebooks.NF4,
    }
    tensors["w.weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    source = tmp_path / "x.safetensors"
    source.write_bytes(safetensors_bytes(tensors))
    whole = conversion.convert(source, tmp_path / "whole.gguf", type="nf4_b64", architecture="any").output
    with gguflow.open(whole) as model:
        assert np.array_equal(model["w.weight"].raw, gguflow.quantize(x, "nf4_b64"))
    seen = 0

    def interrupt(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.convert(
            source, tmp_path / "x.gguf", type="nf4_b64", architecture="any", progress=interrupt
        )
    report = conversion.convert(source, tmp_path / "x.gguf", type="nf4_b64", architecture="any")
    assert report.resumed_nbytes > 0 and report.output.read_bytes() == whole.read_bytes()


def test_damage_is_found_on_the_way(tmp_path: Path) -> None:
    """A code that flipped in the file is not exported as if it had been written."""
    original = tiny_llama(tmp_path / "original", hidden=128, n_layers=1)
    path = conversion.convert(original, tmp_path / "x.gguf", type="nf4_b64").output
    content_of_file = bytearray(path.read_bytes())
    with gguflow.open(path) as model:
        content_of_file[model["blk.0.ffn_up.weight"].offset + 300] ^= 1
    path.write_bytes(content_of_file)
    with pytest.raises(InvalidError, match="I-006"):
        exporting.export(path, tmp_path / "x.safetensors", form="bnb")
    assert not (tmp_path / "x.safetensors").exists()


def test_nothing_to_export(tmp_path: Path) -> None:
    original = tiny_llama(tmp_path / "original", n_layers=1)
    path = conversion.convert(original, tmp_path / "x.gguf", type="q8_0").output
    for form in ("bnb", "safetensors-quantized"):
        assert main(["export", str(path), "-o", str(tmp_path / "x.safetensors"), "--to", form]) == 2
    with pytest.raises(UsageError, match=r"form must be .*, not 'gptq'"):
        exporting.export(path, tmp_path / "x.safetensors", form="gptq")


def test_scales_below_zero(tmp_path: Path) -> None:
    """Of nested scales, rounding may leave one: over weights that are all zero it is zero where it is made
    whole, else it is refused.
    """
    x = np.zeros((2, 128), np.float32)
    x[0, 0], x[1, 64:] = 1, 1e-9
    tensors = parts("w.weight", Payload(gguflow.quantize(x, "nf4_b64_dq")))
    tensors["w.weight.absmax"][:] = 0  # dynamic[0] is -0.993
    tensors["w.weight.nested_absmax"][:] = 10
    tensors["w.weight"][:] = 0x77
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(tensors))
    path = conversion.convert(
        tmp_path / "x.safetensors", tmp_path / "x.gguf", type="nf4_b64", architecture="any"
    ).output
    assert gguflow.validate(path, "values") == []
    with gguflow.open(path) as model:
        assert not model["w.weight"].dequantize().any()
    tensors["w.weight"][40] = 0x78
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(tensors))
    with pytest.raises(InvalidError, match="E-019"):
        conversion.convert(
            tmp_path / "x.safetensors", tmp_path / "no.gguf", type="nf4_b64", architecture="any"
        )


@pytest.mark.parametrize(
    "method",
    [{"quant_method": "gptq"}, {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}],
)
def test_other_quantized_checkpoints_are_refused(tmp_path: Path, method: dict[str, Any]) -> None:
    original = tiny_llama(tmp_path / "original", n_layers=1)
    config = json.loads((original / "config.json").read_text()) | {"quantization_config": method}
    (original / "config.json").write_text(json.dumps(config))
    with pytest.raises(gguflow.errors.UnsupportedError, match="M-007"):
        conversion.convert(original, tmp_path / "no.gguf")
