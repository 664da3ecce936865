"""Tensors of the parametric family in files: converted, resumed, sharded, copied, exported, compared,
validated, opened.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import gguflow
from gguflow import conversion, exporting, recipes, sources
from gguflow.blocks import FORMATS
from gguflow.cli import main
from gguflow.cli.inspect import decoded, inspect_file
from gguflow.container.header import Header, TensorInfo, parse
from gguflow.container.metadata import Metadata, ValueType, array, string, u32
from gguflow.container.payload_keys import MUST_UNDERSTAND_KEY, PAYLOADS_KEY, payload_metadata
from gguflow.container.writer import build
from gguflow.conversion.plan import PlannedTensor
from gguflow.conversion.splitting import Split
from gguflow.editing import edit, parse_assignment
from gguflow.errors import FileError, InvalidError, UsageError
from gguflow.parametric import presets
from gguflow.validation import examine
from testing.checkpoints import llama_tensors, tiny_llama, write_safetensors
from testing.experts import checkpoint as mixture

FIXED = (
    "nf4_b64",
    "nf4_b64_dq",
    "affine4_b64",
    "int8_b128",
    "sb:bits=3,block=16,super=512,scale_bits=6,min_bits=6",
)
VARYING = ("lossless", "int4_b128+zstd")
MATRIX = "blk.0.ffn_up.weight"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matrices of several chunks."""
    return tiny_llama(tmp_path_factory.mktemp("llama"), hidden=256, ffn=8192, n_layers=1, dtype="bfloat16")


def encodings(path: Path) -> dict[str, str]:
    header = inspect_file(path)
    return {name: payload.encoding for name, payload in decoded(path, header).items()}


@pytest.mark.parametrize("name", FIXED + VARYING)
def test_matrices_are_encoded_and_all_else_is_as_it_was(tmp_path: Path, llama: Path, name: str) -> None:
    """The payload of every matrix is what `quantize` gives; embeddings and norms keep the numbers of the
    model.
    """
    path = conversion.convert(llama, tmp_path / "model.gguf", type=name).output
    assert examine(path, "strict") == ("valid", [])
    given = sources.open_checkpoint(llama).tensors
    with gguflow.open(path, verify=True) as model:
        assert model.metadata[MUST_UNDERSTAND_KEY] == [name]
        assert set(model.metadata[PAYLOADS_KEY]) == {
            n for n in model if n.startswith("blk") and "norm" not in n
        } | {"output.weight"} | ({"token_embd.weight"} if name == "lossless" else set())
        for tensor in model.values():
            if tensor.name in model.metadata[PAYLOADS_KEY]:
                assert repr(tensor).endswith(f"{list(tensor.shape)} {name}, {tensor.nbytes} bytes>")
            else:
                assert tensor.format is FORMATS["bf16"]
        weights = _weights(llama, "model.layers.0.mlp.up_proj.weight")
        if name != "lossless":  # the descriptor says what the weights were before: bf16 here, float32 there
            assert np.array_equal(model[MATRIX].raw[256:], gguflow.quantize(weights, name)[256:])
        assert np.array_equal(model[MATRIX].dequantize(), gguflow.dequantize(model[MATRIX].raw, name))
        if name == "lossless":
            assert np.array_equal(model[MATRIX].dequantize(), weights)
    assert len(given) == len(inspect_file(path).tensors)


def _weights(checkpoint: Path, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    tensor = sources.open_checkpoint(checkpoint).tensors[name]
    with sources.TensorReader(sources.open_checkpoint(checkpoint)) as reader:
        bits = reader.read(tensor, 0, tensor.n_weights).view("<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(tensor.shape)


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("name", ["nf4_b64", "affine4_b64+zstd", "lossless"])
def test_rows_of_an_open_model(tmp_path: Path, llama: Path, name: str, io: str) -> None:
    path = conversion.convert(llama, tmp_path / "model.gguf", type=name).output
    x = np.random.default_rng(0).standard_normal((2, 256), np.float32)
    with gguflow.open(path, io=io) as model:
        tensor = model[MATRIX]
        whole = tensor.dequantize()
        for rows in (slice(2000, 2100), [8191, 0, 4096], 17, slice(None, None, -1000), []):
            expected = whole[np.asarray(rows, int) if isinstance(rows, list) else rows]
            assert np.array_equal(tensor.dequantize(rows), expected), rows
            assert np.array_equal(
                tensor.dequantize(rows, dtype="float16", threads=2), expected.astype(np.float16)
            ), rows
        assert np.array_equal(
            tensor.dequantize([5], dtype="bfloat16"), model[MATRIX].dequantize(dtype="bfloat16")[[5]]
        )
        assert np.array_equal(tensor[7].dequantize(), whole[7])
        assert np.allclose(tensor.matmul(x, threads=2), x @ whole.T, atol=1e-3)
        with pytest.raises(UsageError, match="no view as numbers"):
            tensor.numpy()
        with pytest.raises(UsageError, match="float32 only"):
            tensor.matmul(x, activations="int8")


@pytest.mark.parametrize("name", ["nf4_b64", "int4_b128+zstd", "ternary_absmean"])
def test_an_interrupted_conversion_goes_on(tmp_path: Path, llama: Path, name: str) -> None:
    """At any chunk, to the same bytes; without doing again what is there."""
    whole = conversion.convert(llama, tmp_path / "whole.gguf", type=name).output.read_bytes()
    path, seen = tmp_path / "model.gguf", 0
    n_steps = len(_steps(llama, path, name))
    path.unlink()
    for stop in range(0, n_steps, 3):

        def interrupt(planned: PlannedTensor, n_weights: int, nbytes: int, stop: int = stop) -> None:
            nonlocal seen
            seen += 1
            if seen > stop:
                raise KeyboardInterrupt

        seen = 0
        with pytest.raises(KeyboardInterrupt):
            conversion.convert(llama, path, type=name, threads=2, progress=interrupt)
        assert not path.exists()
        report = conversion.convert(llama, path, type=name)
        assert path.read_bytes() == whole
        assert report.resumed_nbytes > 0
        path.unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["whole.gguf"]


def _steps(source: Path, path: Path, name: str) -> list[int]:
    steps: list[int] = []
    conversion.convert(
        source, path, type=name, progress=lambda planned, n_weights, nbytes: steps.append(n_weights)
    )
    return steps


def test_a_torn_chunk_is_done_again(tmp_path: Path, llama: Path) -> None:
    whole = conversion.convert(llama, tmp_path / "whole.gguf", type="int4_b128+zstd").output.read_bytes()
    path = tmp_path / "model.gguf"
    steps = 0

    def interrupt(planned: PlannedTensor, n_weights: int, nbytes: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.convert(llama, path, type="int4_b128+zstd", threads=1, progress=interrupt)
    partial = tmp_path / ".model.gguf.partial"
    content = bytearray(partial.read_bytes())
    last = max(i for i in range(0, len(content), 64) if any(content[i : i + 64]))
    content[last] ^= 255
    partial.write_bytes(content)
    conversion.convert(llama, path, type="int4_b128+zstd")
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["nf4_b64", "lossless"])
def test_threads_do_not_matter(tmp_path: Path, llama: Path, name: str) -> None:
    files = [
        conversion.convert(llama, tmp_path / f"{n}.gguf", type=name, threads=n).output.read_bytes()
        for n in (1, 3)
    ]
    assert files[0] == files[1]


def test_shards(tmp_path: Path, llama: Path) -> None:
    """The keys stand in the first; the set is judged, opened and copied as one."""
    first = conversion.convert(
        llama, tmp_path / "cut.gguf", type="nf4_b64+zstd", shards=Split(max_tensors=4)
    ).output
    whole = conversion.convert(llama, tmp_path / "whole.gguf", type="nf4_b64+zstd").output
    assert examine(first, "strict")[0] == "valid"
    with gguflow.open(first, verify=True) as cut, gguflow.open(whole) as one:
        assert list(cut) == list(one)
        assert all(np.array_equal(cut[name].raw, one[name].raw) for name in one)
    merged = conversion.convert(first, tmp_path / "merged.gguf", type="copy").output
    assert examine(merged, "strict")[0] == "valid"
    assert encodings(merged) == encodings(whole)
    with gguflow.open(merged) as one, gguflow.open(whole) as other:
        assert all(np.array_equal(one[name].raw, other[name].raw) for name in other)


def test_several_types_from_one_command(
    tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text form has commas of its own."""
    types = "q8_0,sb:bits=3,block=32,nf4_b64+zstd"
    assert main(["convert", str(llama), "-t", types, "-o", str(tmp_path / "{type}.gguf"), "-q"]) == 0
    written = {p.name: set(encodings(p).values()) for p in tmp_path.iterdir()}
    assert written == {
        "Q8_0.gguf": set(),
        "SB-BITS-3-BLOCK-32.gguf": {"sb:bits=3,block=32"},
        "NF4_B64+ZSTD.gguf": {"nf4_b64+zstd"},
    }


def test_by_tensor(tmp_path: Path, llama: Path) -> None:
    """--tensor-type takes both kinds of name, in both kinds of recipe."""
    mixed = recipes.Options(
        tensor_types=("attn_v=q8_0", "ffn_down=int8_b128"), token_embedding_type="int4_b128"
    )
    formats = {}
    for name in ("nf4_b64", "q4_k_m"):
        planned = (
            conversion.prepare(llama, tmp_path / "model.gguf", type=name, options=mixed)
            .targets[0]
            .plans[0]
            .tensors
        )
        formats[name] = {p.name.removeprefix("blk.0."): p.format.name for p in planned}
    for chosen in formats.values():
        assert (chosen["attn_v.weight"], chosen["ffn_down.weight"], chosen["token_embd.weight"]) == (
            "Q8_0",
            "int8_b128",
            "int4_b128",
        )
    assert (formats["nf4_b64"]["ffn_up.weight"], formats["q4_k_m"]["ffn_up.weight"]) == ("nf4_b64", "Q4_K")


def test_dry_run_marks_bounds(tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What depends on the data is called a bound, and is one."""
    for name, is_bound in (("nf4_b64", False), ("int4_b128+zstd", True)):
        assert (
            main(["convert", str(llama), "-t", name, "--dry-run", "--json", "-o", str(tmp_path / "m.gguf")])
            == 0
        )
        plan = json.loads(capsys.readouterr().out)
        tensor = next(t for t in plan["tensors"] if t["name"] == MATRIX)
        assert (tensor["format"], tensor["shape"], tensor.get("is_bound", False)) == (
            name,
            [8192, 256],
            is_bound,
        )
        nbytes = conversion.convert(llama, tmp_path / f"{name}.gguf", type=name).nbytes
        assert nbytes < plan["nbytes"] if is_bound else nbytes == plan["nbytes"]
        assert main(["inspect", str(tmp_path / f"{name}.gguf"), "--json"]) == 0
        inspected = next(t for t in json.loads(capsys.readouterr().out)["tensors"] if t["name"] == MATRIX)
        assert (inspected["format"], inspected["shape"]) == (name, [8192, 256])


def test_back_to_safetensors_and_compared(tmp_path: Path, llama: Path) -> None:
    lossless = conversion.convert(llama, tmp_path / "lossless.gguf", type="lossless").output
    exporting.export(lossless, tmp_path / "back.safetensors", dtype="bf16")
    assert load_bits(tmp_path / "back.safetensors") == load_bits(llama / "model.safetensors")
    quantized = conversion.convert(llama, tmp_path / "nf4.gguf", type="nf4_b64").output
    exporting.export(quantized, tmp_path / "nf4.safetensors", dtype="f32")
    with gguflow.open(quantized) as model:
        assert np.array_equal(
            load_file(tmp_path / "nf4.safetensors")["model.layers.0.mlp.up_proj.weight"],
            model[MATRIX].dequantize(),
        )
    compared = {t.name: t for t in gguflow.compare(llama, quantized).tensors}
    assert compared[MATRIX].formats == ("BF16", "nf4_b64")
    assert compared["token_embd.weight"].formats == ("BF16", "BF16")


def load_bits(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    return {
        t.name: content[t.offset : t.offset + t.nbytes]
        for t in sources.open_checkpoint(path).tensors.values()
    }


def test_as_a_source(tmp_path: Path, llama: Path) -> None:
    """Lossless stands for what it holds; what was quantized is not quantized again by accident. Damaged
    chunks are found on the way.
    """
    lossless = conversion.convert(llama, tmp_path / "lossless.gguf", type="lossless").output
    direct = conversion.convert(llama, tmp_path / "direct.gguf", type="q8_0").output
    by_way = conversion.convert(lossless, tmp_path / "by_way.gguf", type="q8_0").output
    with gguflow.open(direct) as one, gguflow.open(by_way) as other:
        assert MUST_UNDERSTAND_KEY not in other.metadata
        assert np.array_equal(one[MATRIX].raw, other[MATRIX].raw)
    quantized = conversion.convert(llama, tmp_path / "nf4.gguf", type="nf4_b64").output
    with pytest.raises(UsageError, match="quantized already"):
        conversion.convert(quantized, tmp_path / "no.gguf", type="q8_0")
    content = bytearray(quantized.read_bytes())
    with gguflow.open(quantized) as model:
        content[model[MATRIX].offset + 5000] ^= 1
    quantized.write_bytes(content)
    with pytest.raises(InvalidError, match="I-006"):
        conversion.convert(
            quantized, tmp_path / "no.gguf", type="q8_0", options=recipes.Options(allow_requantize=True)
        )


def test_experts(tmp_path: Path) -> None:
    mixture(tmp_path / "checkpoint", "llama", dtype="float32")
    path = conversion.convert(tmp_path / "checkpoint", tmp_path / "model.gguf", type="affine4_b32").output
    assert examine(path, "strict")[0] == "valid"
    with gguflow.open(path) as model:
        stack = model["blk.0.ffn_down_exps.weight"]
        assert np.array_equal(stack[2].dequantize([1, 0]), stack.dequantize()[2][[1, 0]])
        x = np.ones((1, stack.shape[-1]), np.float32)
        assert np.allclose(stack[1].matmul(x), x @ stack.dequantize(1).T, atol=1e-3)


def test_an_edit_keeps_the_keys(tmp_path: Path, llama: Path) -> None:
    path = conversion.convert(llama, tmp_path / "model.gguf", type="nf4_b64").output
    for integrity in (True, False):
        edit(path, [parse_assignment("general.name=str:other")], integrity=integrity)
        assert examine(path, "strict")[0] == "valid"
        assert MATRIX in encodings(path)


def test_not_finite(tmp_path: Path) -> None:
    """Refused by name where it would be lost, kept where nothing is."""
    checkpoint = tiny_llama(tmp_path / "checkpoint", dtype="float32")
    config = json.loads((checkpoint / "config.json").read_text())
    tensors = llama_tensors(config)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    write_safetensors(checkpoint / "model.safetensors", tensors)
    with pytest.raises(InvalidError, match=r"up_proj|ffn_up.*\[3, 5\]"):
        conversion.convert(checkpoint, tmp_path / "no.gguf", type="nf4_b64")
    with gguflow.open(
        conversion.convert(checkpoint, tmp_path / "all.gguf", type="lossless", allow_non_finite=True).output
    ) as model:
        assert np.isnan(model["blk.1.ffn_up.weight"].dequantize(3)[5])


def payload_file(path: Path, payload: bytes, metadata: Metadata, dims: tuple[int, ...] | None = None) -> Path:
    header = build(
        {"general.architecture": string("gguflow-test")} | metadata,
        [TensorInfo("t", dims or (len(payload),), 24, 0)],
    )
    path.write_bytes(header + payload + bytes(-len(payload) % 32))
    return path


def good() -> bytes:
    return gguflow.quantize(
        np.random.default_rng(0).standard_normal((16, 256), np.float32), "nf4_b64"
    ).tobytes()


KEYS = payload_metadata({"t": "nf4_b64"})

FILES: list[Any] = [
    pytest.param(KEYS, None, None, [], id="good"),
    pytest.param({MUST_UNDERSTAND_KEY: KEYS[MUST_UNDERSTAND_KEY]}, None, None, ["E-101"], id="one key"),
    pytest.param({**KEYS, PAYLOADS_KEY: u32(1)}, None, None, ["E-101"], id="a key of another type"),
    pytest.param(
        payload_metadata({"t": "nf4_b64", "u": "nf4_b64"}),
        None,
        None,
        ["E-102"],
        id="a tensor that is not there",
    ),
    pytest.param(KEYS, None, 2, ["E-102"], id="two dimensions"),
    pytest.param(
        {**KEYS, MUST_UNDERSTAND_KEY: array(ValueType.STRING, ["nf4_b64", "nf9"])},
        None,
        None,
        ["E-103"],
        id="an unknown encoding",
    ),
    pytest.param(payload_metadata({"t": "int4_b128"}), None, None, ["E-104"], id="another encoding"),
    pytest.param(KEYS, 0, None, ["E-002"], id="another magic"),
    pytest.param(KEYS, 40, None, ["E-005"], id="contradicting parameters"),
    pytest.param(KEYS, 250, None, ["E-012"], id="another digest"),
    pytest.param({}, 0, None, [], id="bytes that nobody calls a payload"),
]


@pytest.mark.parametrize(("metadata", "flipped", "n_dims", "rules"), FILES)
def test_files(
    tmp_path: Path, metadata: Metadata, flipped: int | None, n_dims: int | None, rules: list[str]
) -> None:
    payload = bytearray(good())
    if flipped is not None:
        payload[flipped] ^= 7
    dims = (len(payload) // 2, 2) if n_dims == 2 else None
    path = payload_file(tmp_path / "model.gguf", bytes(payload), metadata, dims)
    assert [finding.rule for finding in gguflow.validate(path)] == rules
    if rules:
        with pytest.raises(FileError, match=rules[0]):
            gguflow.open(path)


def test_values_are_judged(tmp_path: Path) -> None:
    """A scale that is not finite: seen at the level that looks at values, and placed in the file."""
    x = np.random.default_rng(0).standard_normal((16, 256), np.float32)
    payload = gguflow.quantize(x, "nf4_b64")
    path = payload_file(tmp_path / "model.gguf", payload.tobytes(), KEYS)
    content = bytearray(path.read_bytes())
    header: Header = parse(bytes(content), "x")
    content[header.data_offset + len(payload) - 64 * 4 :] = b"\xff" * (
        len(content) - header.data_offset - len(payload) + 64 * 4
    )
    path.write_bytes(content)
    assert gguflow.validate(path) == []
    findings = gguflow.validate(path, "values")
    assert findings
    assert all(
        f.rule.startswith("E-")
        and f.path.startswith("$.tensors[0].data")
        and (f.offset or 0) > header.data_offset
        for f in findings
    )


CUTS: list[Callable[[bytearray], object]] = [
    lambda b: b.__setitem__(slice(0, 64), bytes(64)),
    lambda b: b.__setitem__(slice(256, 400), b"\xff" * 144),
]


@pytest.mark.parametrize("cut", CUTS)
def test_touching_broken_payloads_raises_typed_errors(
    tmp_path: Path, cut: Callable[[bytearray], object]
) -> None:
    for name in ("nf4_b64", "int4_b128+zstd", "lossless"):
        payload = bytearray(gguflow.quantize(np.ones((4, 256), np.float32), name).tobytes())
        cut(payload)
        path = payload_file(tmp_path / "model.gguf", bytes(payload), payload_metadata({"t": name}))
        with contextlib.suppress(FileError), gguflow.open(path) as model:
            model["t"].dequantize()
            assert name == "nf4_b64", "a digest tells"


def test_every_preset_converts(tmp_path: Path) -> None:
    """And the result is sound."""
    small = tiny_llama(tmp_path / "checkpoint", hidden=256, ffn=512, n_layers=1)
    for name in presets():
        path = conversion.convert(small, tmp_path / "model.gguf", type=name, overwrite=True).output
        assert examine(path, "values")[0] == "valid", name


def test_what_entropy_coding_brings_is_said(
    tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it hardly pays, that too; and blocks of ggml's formats are not coded at all."""
    for name, said in (
        ("lossless", "times smaller\n"),
        ("quantile4_b256+zstd", "hardly worth"),
        ("nf4_b64", ""),
    ):
        assert (
            main(["convert", str(llama), "-t", name, "-o", str(tmp_path / "model.gguf"), "--overwrite"]) == 0
        )
        shown = capsys.readouterr().err
        assert said in shown
        assert ("entropy coding" in shown) == bool(said)
    for name in ("q4_k+zstd", "q4_k_m+outliers=1%"):
        with pytest.raises(UsageError, match="parametric family"):
            conversion.prepare(llama, type=name)
