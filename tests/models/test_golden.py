"""Every class that the golden file has: the tiny checkpoint in each number type, converted, against what
llama.cpp's converter wrote. Excused is only what the table of differences says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import gguflow
from gguflow import models, sources
from gguflow.errors import UnsupportedError
from gguflow.models.configuration import text_configuration
from gguflow.models.params import params_configuration
from gguflow.models.tokenizers import template_check
from testing.golden import checkpoint, contents
from testing.golden.conversion import NATIVE, unexplained_differences
from testing.golden.packed import PACKED, Packed, Record, class_of, pack
from testing.golden.records import FileRecord, TensorRecord, differences

GOLDEN = Packed()
KNOWN = [name for name in GOLDEN.names if class_of(name) in models.architectures()]
UNKNOWN = [name for name in GOLDEN.names if class_of(name) not in models.architectures()]


def numbers(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.fixture(autouse=True)
def without_template_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would start a process; what they find is no part of a file."""
    monkeypatch.setattr(template_check, "is_available", lambda: False)


@pytest.mark.parametrize("dtype", contents.FLOATS)
@pytest.mark.parametrize("name", KNOWN)
def test_class_converts_as_the_peer_does(name: str, dtype: str, tmp_path: Path) -> None:
    record, recipe = GOLDEN.record(name), GOLDEN.recipe(name)
    found, file = unexplained_differences(recipe, dtype, record.files[dtype], tmp_path)
    assert not found
    if dtype == "F32":
        assert [f for f in gguflow.validate(file, level="strict") if f.rule != "C-032"] == []
        gguflow.export(file, tmp_path / "back.safetensors", dtype="f32")
        different = against_checkpoint(class_of(name), tmp_path, recipe.directory, recipe.options)
        assert bool(different) == (name in OTHER_WEIGHTS) or "--no-mtp" in recipe.options, different


OTHER_WEIGHTS: dict[str, str] = {
    "BailingMoeForCausalLM": "the columns of the output matrix are normalized, which cannot be undone",
    "BitNetForCausalLM": "weights are rounded to three values",
    "BitnetForCausalLM": "weights are rounded to three values",
    "ChameleonForCausalLM": "norms of heads are repeated",
    "ChameleonForConditionalGeneration": "norms of heads are repeated",
    "Ernie4_5_ForCausalLM+fused": "matrices that were fused come back one by one",
    "FalconH1ForCausalLM": "multipliers are in the weights",
    "FalconH1ForCausalLM+multipliers": "multipliers are in the weights",
    "JAISLMHeadModel": "multipliers are in the weights",
    "Qwen3ForCausalLM+reranker": "of a reranker's output matrix two rows are kept",
    "Qwen3OmniMoeForConditionalGeneration": "experts are stacked, as in Qwen3-VL, which has the same files",
    "SarvamMoEForCausalLM": "the mean of the experts' biases is taken off",
    "modeling_sarvam_moe.SarvamMoEForCausalLM": "the mean of the experts' biases is taken off",
    "Step3p7ForConditionalGeneration": "a block that predicts further tokens is not whole, and left out",
}
"""Recipes that an export does not give back as they were, and why. (C-032: Gemma 3n's keys have an Inf.)"""


def against_checkpoint(cls: str, directory: Path, name: str, options: Sequence[str]) -> list[str]:
    """The names of tensors that an export lacks, or that differ in shape or value; functions of weights are
    undone within rounding.
    """
    is_native = NATIVE in options
    source = sources.open_checkpoint(directory / name, mistral=is_native)
    read = params_configuration if is_native else text_configuration
    config = read(directory / name / source.config_name, source.config or {})
    family = models.architectures()[cls]
    if family.choose is not None:
        family = family.choose(config, directory / name)
    there, back = load_file(source.files[0].path), load_file(directory / "back.safetensors")
    different = []
    for own, x in there.items():
        renamed = family.rename(own, config)
        if renamed is None or family.is_skipped(renamed):
            continue
        y = next((back[key] for key in (renamed, f"model.{renamed}") if key in back), None)
        if y is None:
            different.append(own)
            continue
        if "position_embeddings" in own:  # those before the first token's are not kept
            unused = int(np.argmax(y.any(axis=-1)))
            x, y = x[unused:], y[unused:]
        if y.shape[1:] == x.shape[1:] and not y[len(x) :].any():  # rows of zeros for tokens that have none
            y = y[: len(x)]
        if y.shape != x.shape or not np.allclose(x.astype(np.float32), y, rtol=2e-6, atol=3e-7):
            different.append(own)
    return different


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_class_is_refused(name: str, tmp_path: Path) -> None:
    directory = checkpoint.write(GOLDEN.recipe(name), "BF16", tmp_path)
    with pytest.raises(UnsupportedError):
        gguflow.convert(directory, tmp_path / "out.gguf", type="bf16")


def test_every_class_that_we_know_and_the_peer_too_has_a_record() -> None:
    lacking = models.architectures().keys() & set(GOLDEN.known) - set(map(class_of, GOLDEN.names))
    assert lacking == WITHOUT_RECORD.keys()


WITHOUT_RECORD = {
    "BaiChuanForCausalLM": "the peer calls itself without end",
    "BaichuanForCausalLM": "the peer calls itself without end",
    "PlamoForCausalLM": "the peer knows one size only, which is not tiny",
}
"""Classes that we know and the peer cannot convert on this scale, and why."""


def test_packed_file_is_small() -> None:
    assert PACKED.stat().st_size < 2_000_000


def test_packing_again_gives_the_same_contents(tmp_path: Path) -> None:
    names = GOLDEN.names[:2]
    recipes = {name: GOLDEN.recipe(name) for name in names}
    records = {name: GOLDEN.record(name) for name in names}
    for path in (tmp_path / "a.zip", tmp_path / "b.zip"):
        pack(path, recipes, records, GOLDEN.known)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    again = Packed(tmp_path / "a.zip")
    assert {name: again.record(name) for name in names} == records
    assert {name: again.recipe(name) for name in names} == recipes
    assert Record.parse(records[names[0]].text()) == records[names[0]]


CONTENTS = {
    ("model.norm.weight", (3,), "F32"): "38a94b3fba157f3fa8038a3f",
    ("model.layers.0.mlp.up_proj.weight", (2, 3), "BF16"): "243e2f3edabdd03c933c9a3f",
    ("model.layers.0.mlp.up_proj.weight", (2, 3), "F16"): "1e317631cfae7e269924cd3c",
    ("position_ids", (4,), "I32"): "06000000030000000300000006000000",
}
"""(name, shape, type) -> bytes, which may never change: the records were made from them."""


@pytest.mark.parametrize(("tensor", "expected"), CONTENTS.items())
def test_contents_never_change(tensor: tuple[str, tuple[int, ...], str], expected: str) -> None:
    assert contents.values(*tensor).hex() == expected


def test_contents_show_every_kind_of_number() -> None:
    x = np.frombuffer(contents.values("a.weight", (64, 64), "F16"), "<f2")
    tiny = np.finfo(np.float16).smallest_normal
    assert np.isfinite(x).all() and 1 < np.abs(x).max() < 4
    assert (x < 0).any() and (x > 0).any() and (x == 0).any() and np.signbit(x[x == 0]).any()
    assert ((np.abs(x) < tiny) & (x != 0)).any()
    assert len(np.unique(x)) > 1500  # a permutation of rows or columns shows


@pytest.mark.parametrize(
    ("x", "bits"),
    [(1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (-0.0, 0x8000), (1.005, 0x3F81)],
)
def test_bf16_rounds_to_nearest_even(x: float, bits: int) -> None:
    assert contents.bf16(numbers(x))[0] == bits


def file(
    value: object = 1,
    content: NDArray[np.float32] | None = None,
    name: str = "t",
) -> FileRecord:
    data = (numbers(1, -2) if content is None else content).tobytes()
    return FileRecord(
        {
            "general.architecture": ("STRING", "x"),
            "x.k": ("UINT32", value),
            "tokenizer.ggml.pre": ("STRING", data.hex()),
        },
        {name: TensorRecord("F32", (2,), data.hex(), data)},
    )


NEXT: NDArray[np.float32] = np.nextafter(numbers(1, -2), numbers(2, -1))
FAR = numbers(1, -2.5)
DIFFERENCES = {
    "equal": (file(), file(), set()),
    "another value": (file(2), file(), {"x.k"}),
    "another type of value": (file(True), file(), {"x.k"}),
    "a number that is an integer": (file(1.0), file(), {"x.k"}),
    "long arrays are digests": (file(list(range(99))), file(list(range(99))).packed(), set()),
    "long arrays differ": (file([1, *range(98)]), file(list(range(99))).packed(), {"x.k"}),
    "one unit in the last place": (file(content=NEXT), file(), set()),
    "more than one": (file(content=FAR), file(), {"t"}),
    "another sign of zero is next to it": (
        file(content=numbers(0, 0)),
        file(content=numbers(0, -0.0)),
        set(),
    ),
    "another name": (file(name="u"), file(), {"t", "u"}),
}


@pytest.mark.parametrize(("ours", "peer", "expected"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_differences(ours: FileRecord, peer: FileRecord, expected: set[str]) -> None:
    assert differences(ours, peer).keys() == expected
