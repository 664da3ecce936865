"""Files of ours that another tool rewrote while it kept our keys: they open, run, are edited and converted,
with one warning that says what can no longer be verified, and what to do (I-012, I-016). Damage is still
refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflow
from gguflow import conversion
from gguflow.blocks import block_sizes
from gguflow.cli import main
from gguflow.container.integrity import HEADER_KEY, RECIPE_KEY, SHARDS_KEY, SOURCE_FILES_KEY
from gguflow.container.metadata import ValueType, array, string, u32
from gguflow.container.reader import read_header
from gguflow.container.rules import tensor_nbytes
from gguflow.container.writer import build
from gguflow.conversion.splitting import Split
from gguflow.editing import edit
from gguflow.errors import InvalidError, UsageError, gathered_warnings
from gguflow.validation import examine
from testing.checkpoints import TINY, tiny_llama
from testing.gguf_files import tensors_of

RENEWAL = "gguflow edit FILE --renew-integrity"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("converted")
    conversion.convert(TINY, directory / "model.gguf", type="q8_0")
    return (directory / "model.gguf").read_bytes()


def set_in_place(path: Path) -> None:
    """As gguf_set_metadata does it: a value overwritten where it stands."""
    field = gguf.GGUFReader(path, "r+").get_field("llama.rope.dimension_count")
    assert field is not None
    field.parts[field.data[0]][0] += 0
    field = gguf.GGUFReader(path, "r+").get_field("general.file_type")
    assert field is not None
    field.parts[field.data[0]][0] = 1


def copied_by(path: Path, convert: Callable[[Any], tuple[Any, Any]], *, without: str = "") -> None:
    """As gguf_new_metadata, or a quantizer, does it: every key copied, every tensor through `convert`."""
    reader = gguf.GGUFReader(path)
    target = path.with_name("rewritten.gguf")
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    writer = gguf.GGUFWriter(target, architecture.contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", without):
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        data, kind = convert(tensor)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target.replace(path)


def same(tensor: Any) -> tuple[Any, Any]:
    return np.array(tensor.data), tensor.tensor_type


def requantized(tensor: Any) -> tuple[Any, Any]:
    data = gguf.dequantize(tensor.data, tensor.tensor_type)
    return (data.astype(np.float16), None) if data.ndim > 1 else (data.astype(np.float32), None)


WAYS: dict[str, Callable[[Path], None]] = {
    "a value set in place": set_in_place,
    "copied with all keys": lambda path: copied_by(path, same, without="general.file_type"),
    "copied without one of ours": lambda path: copied_by(path, same, without=RECIPE_KEY),
    "requantized": lambda path: copied_by(path, requantized),
}


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def rewritten(tmp_path: Path, converted: bytes, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(converted)
    request.param(path)
    return path


def test_a_rewritten_file_is_valid_with_a_warning(rewritten: Path) -> None:
    for level in ("structure", "values"):
        verdict, findings = examine(rewritten, level)
        of_set = [finding for finding in findings if finding.rule.startswith("I-")]
        assert verdict == "valid"
        assert of_set
        assert all(f.severity == "warning" and "rewritten by another tool" in f.message for f in of_set)


def test_a_rewritten_file_opens(rewritten: Path) -> None:
    """One warning, also in the model's own attribute; there is nothing to verify it by."""
    with gathered_warnings() as warnings, gguflow.open(rewritten) as model:
        assert np.isfinite(model["output_norm.weight"].dequantize()).all()
        (warning,) = warnings
        assert model.warnings == (warning,)
    assert warning.file == str(rewritten)
    assert RENEWAL in str(warning)
    assert "cannot be verified" in str(warning)
    with pytest.raises(InvalidError, match="rewritten by another tool"):
        gguflow.open(rewritten, verify=True)


def test_a_rewritten_file_runs(rewritten: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(rewritten), "-p", "import os", "-n", "1", "--temperature", "0"]) == 0
    assert capsys.readouterr().err.count(RENEWAL) == 1


def test_a_rewritten_file_converts(
    rewritten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(rewritten), "-o", str(out), "-t", "copy"]) == 0
    assert capsys.readouterr().err.count(RENEWAL) == 1
    assert [f.rule for f in examine(out, "values")[1] if f.rule != "G-008"] == []
    assert {n: t[2] for n, t in tensors_of(out).items()} == {
        n: t[2] for n, t in tensors_of(rewritten).items()
    }
    report = conversion.convert(rewritten, tmp_path / "two.gguf", type="copy")
    assert [RENEWAL in str(warning) for warning in report.warnings] == [True]


def test_a_rewritten_file_is_edited(rewritten: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its keys of ours go, for they vouch for nothing (I-012)."""
    before = tensors_of(rewritten)
    assert main(["edit", str(rewritten), "--set", "general.name=str:x"]) == 0
    assert capsys.readouterr().err.count(RENEWAL) == 1
    metadata = read_header(rewritten, block_sizes).metadata
    assert metadata["general.name"] == string("x")
    assert not [key for key in metadata if key.startswith("gguflow.")]
    assert tensors_of(rewritten) == before
    assert examine(rewritten, "values")[0] == "valid"


@pytest.mark.parametrize("way", ["a value set in place", "copied with all keys"])
def test_payloads_that_another_tool_copied(way: str, tmp_path: Path) -> None:
    """They are bytes to it, so all that becomes stale is the set: one warning, the same weights."""
    path, out = tmp_path / "model.gguf", tmp_path / "out.gguf"
    conversion.convert(tiny_llama(tmp_path / "checkpoint"), path, type="nf4_b64")
    assert conversion.convert(path, out, type="copy").warnings == ()
    name = "blk.0.attn_q.weight"
    with gguflow.open(path) as model:
        expected = model[name].dequantize()
    WAYS[way](path)
    with gguflow.open(path) as model:
        assert [RENEWAL in str(warning) for warning in model.warnings] == [True]
        assert (model[name].dequantize() == expected).all()
    report = conversion.convert(path, out, type="copy", overwrite=True)
    assert [RENEWAL in str(warning) for warning in report.warnings] == [True]
    with gguflow.open(out, verify=True) as model:
        assert (model[name].dequantize() == expected).all()
    assert edit(path, [("general.name", string("x"))], renew_integrity=True).verified
    assert not [f for f in examine(path, "values")[1] if f.rule.startswith(("I-", "E-"))]


def test_a_payload_that_another_tool_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As llama-quantize --prune-layers leaves it: the message says how to go on, and that works."""
    path, out = tmp_path / "model.gguf", tmp_path / "out.gguf"
    conversion.convert(tiny_llama(tmp_path / "checkpoint"), path, type="nf4_b64")
    header, content = read_header(path, block_sizes), path.read_bytes()
    kept = tuple(tensor for tensor in header.tensors if not tensor.name.startswith("blk.1."))
    infos, data = [], b""
    for tensor in kept:
        start = header.data_offset + tensor.offset
        infos.append(replace(tensor, offset=len(data)))
        nbytes = tensor_nbytes(tensor, block_sizes)
        assert nbytes is not None
        data += content[start : start + nbytes + -nbytes % header.alignment]
    keys = {**header.metadata, "llama.block_count": u32(1)}
    path.write_bytes(build(keys, infos, header.alignment) + data)
    assert main(["run", str(path), "-p", "x", "-n", "1"]) == 3
    assert "E-102" in (said := capsys.readouterr().err) and "gguflow convert FILE -t copy" in said
    report = conversion.convert(path, out, type="copy")
    assert [RENEWAL in str(warning) for warning in report.warnings] == [True]
    assert examine(out, "values")[1] == []


def test_keys_are_renewed(rewritten: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tensors_of(rewritten)
    assert main(["edit", str(rewritten), "--renew-integrity", "--set", "general.name=str:x"]) == 0
    assert RENEWAL not in capsys.readouterr().err
    metadata = read_header(rewritten, block_sizes).metadata
    assert metadata[RECIPE_KEY] == string("copy")
    assert list(metadata[SOURCE_FILES_KEY].value) == ["model.gguf"]
    assert tensors_of(rewritten) == before
    assert not [f for f in examine(rewritten, "values")[1] if f.rule.startswith("I-")]
    with gguflow.open(rewritten, verify=True) as model:
        assert model.warnings == ()


def test_keys_are_renewed_where_there_are_none(tmp_path: Path, converted: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(converted)
    edit(path, [], integrity=False)
    assert HEADER_KEY not in read_header(path, block_sizes).metadata
    assert edit(path, [], renew_integrity=True).verified
    assert examine(path, "values")[1] == []
    with pytest.raises(UsageError, match="both renewed and left out"):
        edit(path, [], renew_integrity=True, integrity=False)


def test_damage_is_refused(tmp_path: Path, converted: bytes) -> None:
    path, out = tmp_path / "model.gguf", tmp_path / "out.gguf"
    spoilt = converted[:-40] + bytes([converted[-40] ^ 1]) + converted[-39:]
    path.write_bytes(spoilt)
    assert examine(path, "values")[0] == "invalid"
    for work in (
        lambda: gguflow.open(path, verify=True),
        lambda: edit(path, [("general.name", string("x"))]),
        lambda: conversion.convert(path, out, type="copy"),
    ):
        with pytest.raises(InvalidError, match="I-006: damaged data"):
            work()
    assert path.read_bytes() == spoilt
    assert not out.exists()


def test_shards_of_which_one_was_rewritten(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "checkpoint")
    report = conversion.convert(source, tmp_path / "m.gguf", type="q8_0", shards=Split(max_tensors=12))
    first, second = report.files[:2]
    header, content = read_header(second, block_sizes), second.read_bytes()
    kept = {key: value for key, value in header.metadata.items() if key != SHARDS_KEY}
    second.write_bytes(build(kept, header.tensors, header.alignment) + content[header.data_offset :])
    verdict, findings = examine(first)
    assert verdict == "valid"
    assert "C-044" in {finding.rule for finding in findings}
    with gguflow.open(first) as model:
        assert [RENEWAL in str(warning) for warning in model.warnings] == [True]
        assert model.warnings[0].file == str(second)
    with pytest.raises(UsageError, match="-t copy"):
        edit(first, [], renew_integrity=True)


ARRAYS: dict[str, tuple[str, ValueType, list[Any]]] = {
    "text": ('general.tags=arr[str]:["a, b","c"]', ValueType.STRING, ["a, b", "c"]),
    "none": ("general.tags=arr[str]:[]", ValueType.STRING, []),
    "numbers": ("x.y=arr[u32]:[1, 2]", ValueType.UINT32, [1, 2]),
    "floats": ("x.y=arr[f32]:[1, 0.5]", ValueType.FLOAT32, [1.0, 0.5]),
    "bools": ("x.y=arr[bool]:[true, false]", ValueType.BOOL, [True, False]),
}


@pytest.mark.parametrize(("text", "kind", "values"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_set(
    tmp_path: Path, converted: bytes, text: str, kind: ValueType, values: list[Any]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(converted)
    assert main(["edit", str(path), "--set", text, "-q"]) == 0
    found = read_header(path, block_sizes).metadata[text.partition("=")[0]]
    assert (found.type, found.element_type, list(found.value)) == (ValueType.ARRAY, kind, values)


WRONG: dict[str, tuple[str, str]] = {
    "a string for a list": (
        "general.tags=str:a,b",
        r"is an array; write general.tags=arr\[str\]",
    ),
    "a string for more": ("general.languages=str:a", r"write general.languages=arr\[str\]"),
    "no JSON": ("general.tags=arr[str]:a,b", "is no array .*as JSON"),
    "an object": ("general.tags=arr[str]:{}", "is no array"),
    "a number among strings": ('general.tags=arr[str]:["a", 1]', "element 1 .* is no value of type str"),
    "a bool among numbers": ("x.y=arr[u8]:[true]", "element 0"),
    "out of range": ("x.y=arr[u8]:[1, 256]", "element 1 .* an integer from 0 to 255"),
    "a fraction": ("x.y=arr[u8]:[1.5]", "element 0"),
    "nested": ("x.y=arr[u8]:" + "[" * 100_000, "is no array"),
    "an unknown type": ("x.y=arr[word]:[]", "unknown type"),
    "half a surrogate": ('general.tags=arr[str]:["\\ud800"]', "element 0"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_arrays_that_are_refused(
    tmp_path: Path, converted: bytes, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(converted)
    assert main(["edit", str(path), "--set", text]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert path.read_bytes() == converted


def test_an_array_keeps_its_place(tmp_path: Path, converted: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(converted)
    edit(path, [("general.tags", array(ValueType.STRING, ["a"]))])
    edit(path, [("general.tags", array(ValueType.STRING, ["b"]))])
    assert list(read_header(path, block_sizes).metadata["general.tags"].value) == ["b"]
