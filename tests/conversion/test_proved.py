"""What a conversion writes is proved: whatever the weights and the importance, a conversion that succeeds
has made a file without an error at level `values`; else the tensor and an index are named.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gguflow
from gguflow import conversion
from gguflow.blocks import FORMATS, reserved
from gguflow.cli import main
from gguflow.errors import InvalidError, NonFiniteError, UsageError
from gguflow.parametric import presets
from gguflow.quantization import dequantize, fake_quantize, quantize
from gguflow.validation import validate
from testing import ggml
from testing.checkpoints import bf16, write_safetensors
from testing.gguf_files import tensors_of

f32 = np.float32
Floats = NDArray[np.float32]

MAGNITUDES = (0.0, 1e-45, 1e-30, 1.0, 6e4, 7e4, 6e5, 1e7, 1e30, 3e38, float("nan"), float("inf"))
IMPORTANCES = (None, 0.0, 1e-38, 1.0, 3e38)
FLOATS = [f for f in FORMATS.values() if f.is_quantized or f.key in ("f32", "f16", "bf16")]
SHAPE = (2, 512)


def weights_of(magnitude: float, seed: int = 0) -> Floats:
    """Weights up to a magnitude; where it is not finite, one of them."""
    uniform = np.random.default_rng(seed).uniform(-1, 1, SHAPE)
    if not np.isfinite(magnitude):
        uniform[1, 300] = magnitude
        return uniform.astype(f32)
    with np.errstate(under="ignore"):
        return (uniform * magnitude).astype(f32)


def imatrix(path: Path, values: Floats, name: str = "a.weight") -> Path:
    """An importance matrix with one entry."""
    encoded = name.encode()
    head = struct.pack("<ii", 1, len(encoded)) + encoded + struct.pack("<ii", 1, values.size)
    path.write_bytes(head + values.astype("<f4").tobytes())
    return path


def converted(tmp_path: Path, x: NDArray[Any], kind: str, importance: Floats | None = None) -> Path | str:
    """The file that became of a matrix, which is without an error; or why there is none."""
    source = write_safetensors(tmp_path / "x.safetensors", {"a.weight": x})
    matrix = None if importance is None else imatrix(tmp_path / "m.dat", importance)
    out = tmp_path / "x.gguf"
    try:
        options: dict[str, Any] = {"architecture": "any", "overwrite": True, "threads": 1}
        conversion.convert(source, out, type=kind, imatrix=matrix, **options)
    except (InvalidError, UsageError) as error:
        return str(error)
    assert [f for f in validate(out, "values") if f.severity == "error"] == []
    return out


@pytest.mark.parametrize("block_format", FLOATS, ids=lambda f: f.key)
def test_what_converts_is_valid(tmp_path: Path, block_format: Any) -> None:
    refused = 0
    for magnitude in MAGNITUDES:
        for importance in IMPORTANCES if block_format.importance != "unused" else (None,):
            columns = None if importance is None else np.full(SHAPE[1], importance, f32)
            x = weights_of(magnitude)
            found = converted(tmp_path, x, block_format.key, columns)
            if isinstance(found, str):
                refused += 1
                named = r"tensor 'a\.weight' holds \S+ at index \[\d+, \d+\]|entry for a\.weight .* matrix 0"
                assert re.search(named, found) or "needs an importance matrix" in found
                continue
            with gguflow.open(found) as model:
                values = model["a.weight"].dequantize()
            assert np.isfinite(values).all()
            if 1 <= magnitude < 1e38 and block_format.key != "nvfp4":
                assert values.any(axis=1).all()
    assert refused


@pytest.mark.parametrize("kind", presets())
def test_what_becomes_a_payload_is_valid(tmp_path: Path, kind: str) -> None:
    for magnitude in MAGNITUDES:
        x = weights_of(magnitude)
        found = converted(tmp_path, x, kind)
        if isinstance(found, str):
            assert "'a.weight' holds" in found
            continue
        with gguflow.open(found) as model:
            values = model["a.weight"].dequantize()
        if kind == "lossless":
            assert np.array_equal(values.view(np.uint32), x.view(np.uint32))
        else:
            assert np.isfinite(values).all()
            largest, expected = float(np.abs(values).max()), float(np.abs(x).max())
            assert 0.1 * expected <= largest <= 1.4 * expected or magnitude < 1


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([f.key for f in FLOATS if not f.key.startswith(("iq1", "iq2", "iq3"))]),
    st.lists(
        st.tuples(
            st.integers(0, SHAPE[0] * SHAPE[1] - 1),
            st.sampled_from([-0.0, 1e-45, -1e-38, 1e-6, 5e4, 65504.0, -65519.0, 65520.0, 2e6, 3.4028235e38]),
        ),
        max_size=20,
    ),
    st.lists(st.tuples(st.integers(0, SHAPE[1] - 1), st.sampled_from([0.0, 1e-38, 1.0, 1e18])), max_size=9),
    st.integers(0, 9),
)
def test_weights_of_all_sizes_beside_each_other(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    weights: list[tuple[int, float]],
    importance: list[tuple[int, float]],
    seed: int,
) -> None:
    x, columns = weights_of(0.05, seed), np.ones(SHAPE[1], f32)
    for i, weight in weights:
        x.flat[i] = weight
    for i, value in importance:
        columns[i] = value
    converted(tmp_path_factory.mktemp("fuzz"), x, kind, columns if importance else None)


REFUSED: dict[str, tuple[str, float, str]] = {
    "a scale of q4_0": ("q4_0", 6e5, "M-101"),
    "a scale of tq2_0": ("tq2_0", 6e5, "M-101"),
    "a scale of q8_0": ("q8_0", 1e7, "M-101"),
    "a scale of iq4_nl": ("iq4_nl", 1e7, "M-101"),
    "a min of q4_k": ("q4_k", 3e38, "M-101"),
    "sums of q6_k": ("q6_k", 1e30, "M-102"),
    "an f16": ("f16", 7e4, "M-100"),
    "a bf16": ("bf16", 3.4e38, "M-100"),
}


@pytest.mark.parametrize(("kind", "weight", "rule"), REFUSED.values(), ids=REFUSED)
def test_a_weight_that_does_not_fit_is_named(tmp_path: Path, kind: str, weight: float, rule: str) -> None:
    """The largest of the first block that would be lost; what was there stays."""
    x = weights_of(1.0)
    x[1, 256:] *= f32(weight / 2)
    x[1, 261] = weight
    (tmp_path / "x.gguf").write_bytes(b"old")
    found = converted(tmp_path, x, kind)
    assert isinstance(found, str)
    assert f"{rule}: tensor 'a.weight' holds {f32(weight)} at index [1, 261]" in found
    assert (tmp_path / "x.gguf").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.gguf", "x.safetensors"]


@pytest.mark.parametrize("value", [0.0, 3e38])
@pytest.mark.parametrize("kind", ["q4_k_m", "q4_0", "iq4_xs"])
def test_an_imatrix_that_would_erase_a_tensor(tmp_path: Path, kind: str, value: float) -> None:
    found = converted(tmp_path, weights_of(0.1), kind, np.full(SHAPE[1], value, f32))
    assert isinstance(found, str)
    assert f"A-{16 if value == 0 else 17:03}: the entry for a.weight" in found
    assert "m.dat" in found


def test_columns_that_count_nothing_may_be_lost(tmp_path: Path) -> None:
    """As llama.cpp has it: they were never used."""
    columns = np.ones(SHAPE[1], f32)
    columns[:256] = 0
    assert isinstance(converted(tmp_path, weights_of(2.0), "q4_k", columns), Path)


KEPT: dict[str, tuple[str, str, Any]] = {
    "a norm": ("norm", "q8_0", f32),
    "f32": ("a", "f32", f32),
    "f16": ("a", "f16", np.float16),
}
KEPT |= {"bf16": ("a", "bf16", np.uint16), "bf16 kept": ("a", "copy", np.uint16), "kept": ("a", "copy", f32)}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("name", "kind", "dtype"), KEPT.values(), ids=KEPT)
def test_nan_and_infinity_only_where_they_are_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str, dtype: Any, bad: float
) -> None:
    x = np.full(64 if name == "norm" else (4, 64), 0.5, f32)
    x.flat[-3] = bad
    y = bf16(np.full((4, 64), 0.5, f32)) if dtype == np.uint16 else np.full((4, 64), 0.5, dtype)
    stored = bf16(x) if dtype == np.uint16 else x.astype(dtype)
    source = write_safetensors(tmp_path / "x.safetensors", {f"{name}.weight": stored, "b.weight": y})
    out = tmp_path / "x.gguf"
    call = ["convert", str(source), "-o", str(out), "-t", kind, "--arch", "any"]
    assert main(call) == 3
    said = capsys.readouterr().err
    index = [61] if name == "norm" else [3, 61]
    assert f"M-100: tensor '{name}.weight' holds {bad} at index {index}" in said
    assert "--allow-non-finite keeps it" in said
    assert not out.exists()
    assert main([*call, "--allow-non-finite"]) == 0
    said = capsys.readouterr().err
    assert said.count("V-003: 1 tensor holds NaN or infinity") == 1
    assert f"{name}.weight" in said
    assert tensors_of(out)[f"{name}.weight"][2] == stored.tobytes()
    assert {f.rule for f in validate(out, "values") if f.severity == "error"} == {"V-003"}


LOSSLESS = {"f32": f32, "f16": np.float16, "bf16": np.uint16, "f64": np.float64, "a wide row": np.float16}


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize(("name", "dtype"), LOSSLESS.items(), ids=LOSSLESS)
def test_a_lossless_payload_with_nan_or_infinity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, dtype: Any, bad: float
) -> None:
    """Refused unless that is allowed, as in plain numbers; copying the payload likewise."""
    x = np.full((2, 1 << 20) if name == "a wide row" else (4, 64), 0.5, f32)
    x.flat[-3] = bad
    stored = bf16(x) if dtype == np.uint16 else x.astype(dtype)
    source = write_safetensors(tmp_path / "x.safetensors", {"a.weight": stored})
    out, again = tmp_path / "x.gguf", tmp_path / "again.gguf"
    call = ["convert", str(source), "-o", str(out), "-t", "lossless", "--arch", "any"]
    assert main(call) == 3
    said = capsys.readouterr().err
    assert f"M-100: tensor 'a.weight' holds {bad} at index [{len(x) - 1}, {x.shape[1] - 3}]" in said
    assert "--allow-non-finite keeps it" in said
    assert not out.exists()
    assert main([*call, "--allow-non-finite"]) == 0
    assert "V-003: 1 tensor holds NaN or infinity" in capsys.readouterr().err
    assert [f.rule for f in validate(out, "values") if f.severity == "error"] == ["V-003"]
    call = ["convert", str(out), "-o", str(again), "-t", "copy"]
    assert main(call) == 3
    said = capsys.readouterr().err  # F64 is copied even now, as numbers that no recipe changes
    assert ("M-100: " if name == "f64" else "V-003: ") + "tensor 'a.weight'" in said
    assert main([*call, "--allow-non-finite"]) == 0
    assert "V-003: 1 tensor holds NaN or infinity" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["copy", "q8_0", "lossless"])
def test_zeros_in_binary64(tmp_path: Path, kind: str) -> None:
    """Such numbers are copied, and have no kernel."""
    source = write_safetensors(tmp_path / "x.safetensors", {"a.weight": np.zeros((4, 64))})
    report = conversion.convert(source, tmp_path / "x.gguf", type=kind, architecture="any")
    assert "V-005" in [warning.finding.rule for warning in report.warnings]


def test_what_was_allowed_is_named_after_an_interruption(tmp_path: Path) -> None:
    """And refused when it is allowed no more."""
    x = np.full((4, 64), np.nan, f32)
    tensors = {"a.weight": x, "b.weight": np.ones((4, 64), f32)}
    source = write_safetensors(tmp_path / "x.safetensors", tensors)
    prepared = conversion.prepare(source, tmp_path / "x.gguf", type="lossless", architecture="any")

    def stop(*event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.run(prepared, threads=1, progress=stop, allow_non_finite=True)
    with pytest.raises(InvalidError, match=r"M-100: tensor 'a\.weight'"):
        conversion.run(prepared, threads=1)
    with pytest.raises(KeyboardInterrupt):
        conversion.run(prepared, threads=1, progress=stop, allow_non_finite=True)
    (report,) = conversion.run(prepared, threads=1, allow_non_finite=True)
    assert [warning.finding.rule for warning in report.warnings] == ["V-003"]


def test_a_broken_payload_is_not_copied(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "x.safetensors", {"a.weight": weights_of(1.0)})
    out = tmp_path / "x.gguf"
    conversion.convert(source, out, type="nf4_b64+zstd", architecture="any", integrity=False)
    content = bytearray(out.read_bytes())
    content[-100] ^= 1
    out.write_bytes(content)
    with pytest.raises(InvalidError, match=r"E-01[5-7]: tensor 'a.weight': "):
        conversion.convert(out, tmp_path / "y.gguf", type="copy")


LOST = {"q3_k": 1e19, "q6_k": 1e20, "iq3_s": 1e20, "iq4_xs": 1e20, "nvfp4": 3000.0}


@pytest.mark.parametrize(("kind", "weight"), LOST.items(), ids=LOST)
def test_a_weight_that_is_lost_in_a_block_that_looks_sound(tmp_path: Path, kind: str, weight: float) -> None:
    """ggml gives up a sub-block whose sums overflow, and cuts off what no scale of NVFP4 reaches."""
    x = weights_of(1.0)
    x[1, 352:368] = weight / 2
    x[1, 360] = weight
    packed = quantize(x, kind, allow_non_finite=True)
    assert abs(dequantize(packed, kind)[1, 360] / weight - 1) > 0.1
    with pytest.raises(NonFiniteError, match=r"at index \[1, 360\] does not fit") as caught:
        quantize(x, kind)
    assert caught.value.index == 512 + 360
    found = converted(tmp_path, x, kind)
    assert isinstance(found, str)
    assert f"M-101: tensor 'a.weight' holds {f32(weight)} at index [1, 360], which is more than" in found


def test_a_weight_that_nvfp4_just_holds() -> None:
    x = np.zeros((1, 64), f32)
    x[0, 5] = 448 * 6
    assert dequantize(quantize(x, "nvfp4"), "nvfp4")[0, 5] == 448 * 6


def test_weights_that_are_quantized_are_finite_whatever_is_allowed(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "x.safetensors", {"a.weight": weights_of(np.nan)})
    with pytest.raises(InvalidError, match=r"M-100: .*holds nan at index \[1, 300\], which cannot be quant"):
        conversion.convert(source, tmp_path / "x.gguf", type="q8_0", architecture="x", allow_non_finite=True)


def test_a_block_with_a_broken_scale_is_not_copied(tmp_path: Path) -> None:
    """Neither where it lies in a GGUF file, unless that is allowed."""
    out = converted(tmp_path, weights_of(1.0), "q8_0")
    assert isinstance(out, Path)
    content = bytearray(out.read_bytes())
    at = len(content) - 34 * 3
    content[at : at + 2] = b"\x00\x7c"
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(content)
    stripped = tmp_path / "stripped.gguf"
    gguflow.edit(bad, [], integrity=False, output=stripped)
    copied = tmp_path / "copied.gguf"
    with pytest.raises(InvalidError, match=r"M-101: .*the scale d of the block at index \[1, 416\]"):
        conversion.convert(stripped, copied, type="copy")
    report = conversion.convert(stripped, copied, type="copy", allow_non_finite=True)
    assert [(w.finding.rule, "a.weight" in str(w)) for w in report.warnings] == [("V-003", True)]


def test_tensors_of_zeros_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zeros, tiny = np.zeros(SHAPE, f32), np.full(SHAPE, 1e-30, f32)
    tensors = {"a.weight": weights_of(1.0), "zero.weight": zeros, "tiny.weight": tiny, "b.bias": zeros[0]}
    source = write_safetensors(tmp_path / "x.safetensors", tensors)
    call = ["convert", str(source), "-o", str(tmp_path / "{type}.gguf"), "--arch", "any"]
    assert main([*call, "-t", "q4_0,q4_k,q8_0,f16,nf4_b64"]) == 0
    said = capsys.readouterr().err
    assert said.count("V-005: 1 tensor is all zeros") == 1
    assert said.count("zero.weight") == 1
    assert said.count("M-103: 1 tensor is all zeros, because") == 4  # nf4 has scales in binary32
    assert "b.bias" not in said


def test_zeros_are_named_after_an_interruption_too(tmp_path: Path) -> None:
    source = write_safetensors(
        tmp_path / "x.safetensors", {"a.weight": weights_of(1.0), "zero.weight": np.zeros(SHAPE, f32)}
    )
    prepared = conversion.prepare(source, tmp_path / "x.gguf", type="q4_0", architecture="any")

    def stop(*event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.run(prepared, threads=1, progress=stop)
    (report,) = conversion.run(prepared, threads=1)
    assert report.resumed_nbytes
    assert [warning.finding.message for warning in report.warnings] == [
        "1 tensor is all zeros: never written, or placeholders: zero.weight"
    ]


ARRAYS: dict[str, tuple[str, float, int]] = {
    "q4_0": ("q4_0", 1e6, 70),
    "f16": ("f16", 7e4, 70),
    "bf16": ("bf16", 3.4e38, 70),
    "q4_k": ("q4_k", 3e38, 700),
    "q6_k": ("q6_k", 1e30, 700),
    "affine2_b32": ("affine2_b32", 3e38, 700),
    "f32": ("f32", float("inf"), 5),
}


@pytest.mark.parametrize(("kind", "weight", "at"), ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("function", [quantize, fake_quantize])
def test_arrays_that_would_decode_to_infinity(function: Any, kind: str, weight: float, at: int) -> None:
    x = np.zeros(SHAPE, f32)
    x.flat[at] = weight
    if kind == "affine2_b32":
        x.flat[at + 1] = -weight
    with pytest.raises(NonFiniteError) as caught:
        function(x, kind)
    assert caught.value.index in (at, at + 1)
    assert f"[{at // SHAPE[1]}, {caught.value.index % SHAPE[1]}]" in str(caught.value)


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0", "f16", "bf16"])
def test_arrays_have_ggmls_bytes_where_that_is_allowed(kind: str) -> None:
    x = weights_of(1.0)
    x[1, 7] = 1e30 if kind != "bf16" else 3.4e38
    packed = quantize(x, kind, allow_non_finite=True)
    assert packed.tobytes() == ggml.quantize(x, FORMATS[kind]).tobytes()
    assert np.array_equal(
        fake_quantize(x, kind, allow_non_finite=True), dequantize(packed, kind), equal_nan=True
    )


@pytest.mark.parametrize("kind", ["q4_k", "q2_k", "q5_0"])
def test_an_importance_that_overflows(kind: str) -> None:
    with pytest.raises(NonFiniteError, match="smaller importance"):
        quantize(weights_of(1e12), kind, np.full(SHAPE[1], 1e19, f32))
    with pytest.raises(UsageError, match="importance must not be above"):
        quantize(weights_of(1.0), kind, np.full(SHAPE[1], 3e38, f32))


@pytest.mark.parametrize("block_format", FLOATS, ids=lambda f: f.key)
def test_a_look_finds_what_decoding_finds(block_format: Any) -> None:
    """Random blocks: the first that is not finite, where the format can be so."""
    size = block_format.type_size
    packed = np.random.default_rng(3).integers(0, 256, (300, size), np.uint8)
    if block_format.key in ("mxfp4", "nvfp4"):
        return
    found = reserved.look(packed.reshape(-1), block_format)
    values = dequantize(packed, block_format)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    first = int(bad[0]) if bad.size else -1
    assert first == -1 or 0 <= found.block <= first
    packed[:] = 0
    assert reserved.look(packed.reshape(-1), block_format).zeros.size == 300


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m", "f16"])
def test_a_file_type_that_no_tensor_has_is_said(tmp_path: Path, kind: str) -> None:
    """Rows are no weights of a model by their name, so no recipe quantizes them."""
    store = tmp_path / "rows.gguf"
    with gguflow.RowStore(store, "f32", 256) as rows:
        rows.append(weights_of(1.0)[:, :256])
    out = tmp_path / "out.gguf"
    report = conversion.convert(store, out, type=kind)
    found = [finding.rule for finding in validate(out, "strict")]
    (warning,) = (w.finding for w in report.warnings)
    assert found == [warning.rule] == ["G-008"]
    assert "no matrix is stored in it (rows is F32: " in warning.message
