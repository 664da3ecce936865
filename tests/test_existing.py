"""What exists stays usable: files of every kind as version 0.1.0 wrote them (fixtures/existing).

Through public names only, so that the same tests run against any version. What the files decode to stands in
their manifest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import gguflow

HOME = Path(__file__).resolve().parent.parent / "fixtures" / "existing"
MANIFEST: dict[str, Any] = json.loads((HOME / "manifest.json").read_text(encoding="utf-8"))
REQUANTIZE = gguflow.Options(allow_requantize=True)

CODES_FORM = "safetensors-quantized"


def cases(kind: str) -> list[Any]:
    """The entries of a kind, each under its name."""
    return [pytest.param(entry, id=entry.get("file") or entry["directory"]) for entry in MANIFEST[kind]]


MODELS, ROWS, EXPORTS, INTERRUPTED = map(cases, ("models", "rows", "exports", "interrupted"))
READABLE = [case for case in EXPORTS if case.values[0]["form"] != CODES_FORM]
CODES = [case for case in EXPORTS if case.values[0]["form"] == CODES_FORM]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest(weights: NDArray[Any]) -> str:
    return sha256(np.ascontiguousarray(weights, "<f4").tobytes())


def decoded(path: Path) -> dict[str, str]:
    """The digests of the tensors of a GGUF file."""
    with gguflow.open(path) as model:
        return {name: digest(tensor.dequantize()) for name, tensor in model.items()}


def errors(path: Path, level: str) -> list[str]:
    return [str(finding) for finding in gguflow.validate(path, level) if finding.severity == "error"]


def gguflow_command(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gguflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def recorded(entry: dict[str, Any]) -> dict[str, str]:
    return {name: tensor["sha256"] for name, tensor in entry["tensors"].items()}


def test_the_files_are_as_they_were_written() -> None:
    """None was written anew, lost or added, and a checkout changed no line ends."""
    there = {path.relative_to(HOME).as_posix(): path for path in HOME.rglob("*") if path.is_file()}
    assert there.pop("manifest.json").is_file()
    assert {name: sha256(path.read_bytes()) for name, path in there.items()} == MANIFEST["files"]


# --- models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", MODELS)
def test_a_model_stays_valid(entry: dict[str, Any]) -> None:
    assert errors(HOME / entry["file"], "strict") == []


@pytest.mark.parametrize("entry", MODELS)
def test_a_model_decodes_to_the_same_weights(entry: dict[str, Any]) -> None:
    path = HOME / entry["file"]
    with gguflow.open(path, verify=entry["file"] != "plain.gguf") as model:
        assert len(model.metadata) == entry["keys"]
        assert list(model.metadata.get("gguflow.encodings", ())) == entry["encodings"]
        shapes = {name: list(tensor.shape) for name, tensor in model.items()}
    assert shapes == {name: tensor["shape"] for name, tensor in entry["tensors"].items()}
    assert decoded(path) == recorded(entry)


@pytest.mark.parametrize("entry", MODELS)
def test_a_model_is_a_source(entry: dict[str, Any], tmp_path: Path) -> None:
    """Copied, it is what it was; quantized anew, it is valid."""
    path = HOME / entry["file"]
    copy = gguflow.convert(path, tmp_path / "copy.gguf", type="copy").output
    assert errors(copy, "strict") == []
    assert decoded(copy) == recorded(entry)
    anew = gguflow.convert(path, tmp_path / "q8_0.gguf", type="q8_0", options=REQUANTIZE).output
    assert errors(anew, "strict") == []
    with gguflow.open(anew) as model:
        assert list(model) == list(entry["tensors"])


def test_the_command_line(tmp_path: Path) -> None:
    """validate and convert, of a model in shards with digests."""
    first, out = str(HOME / "split" / "model-00001-of-00003.gguf"), str(tmp_path / "whole.gguf")
    gguflow_command("validate", first)
    gguflow_command("convert", first, "-t", "copy", "-o", out, "-q")
    gguflow_command("validate", out)
    assert gguflow_command("inspect", out).stdout


# --- row stores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ROWS)
def test_a_row_store_is_read(entry: dict[str, Any]) -> None:
    """Also one whose writer was stopped with rows that it had not counted."""
    path = HOME / entry["file"]
    assert errors(path, "structure") == []
    assert (errors(path, "strict") == []) == entry["is_whole"]
    with gguflow.RowStore.open(path) as store:
        assert (store.format, store.width, len(store)) == (entry["format"], entry["width"], entry["rows"])
        assert digest(store.rows()) == entry["sha256"]
    with gguflow.open(path) as model:
        assert [digest(tensor.dequantize()) for tensor in model.values()] == [entry["sha256"]]


@pytest.mark.parametrize("entry", ROWS)
def test_a_row_store_goes_on(entry: dict[str, Any], tmp_path: Path) -> None:
    path = Path(shutil.copy(HOME / entry["file"], tmp_path / "store.gguf"))
    more = np.random.default_rng(0).standard_normal((3, entry["width"]), np.float32)
    with gguflow.RowStore(path, mode="a") as store:
        assert store.append(more) == range(entry["rows"], entry["rows"] + 3)
    assert errors(path, "strict") == []
    with gguflow.RowStore.open(path) as store:
        assert len(store) == entry["rows"] + 3
        assert digest(store.rows(0, entry["rows"])) == entry["sha256"]
        assert np.allclose(store.rows(entry["rows"]), more, atol=0.7)


# --- exports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", EXPORTS)
def test_an_export_stays_valid(entry: dict[str, Any]) -> None:
    assert errors(HOME / entry["file"], "strict") == []


@pytest.mark.parametrize("entry", READABLE)
def test_an_export_is_a_source(entry: dict[str, Any], tmp_path: Path) -> None:
    """Alone, under the names that it has: the weights that were recorded."""
    lone, out = HOME / entry["file"], tmp_path / "f32.gguf"
    path = gguflow.convert(lone, out, type="f32", architecture="any", options=REQUANTIZE).output
    assert errors(path, "strict") == []
    assert decoded(path) == entry["tensors"]


@pytest.mark.parametrize("entry", READABLE)
def test_an_export_is_a_checkpoint(entry: dict[str, Any], tmp_path: Path) -> None:
    """Beside the configuration and the tokenizer. Of nf4_b64, it is the model that was exported."""
    for path in (HOME / "source").glob("*.json"):
        shutil.copy(path, tmp_path)
    shutil.copy(HOME / entry["file"], tmp_path / "model.safetensors")
    out = gguflow.convert(tmp_path, tmp_path / "model.gguf", type="copy").output
    assert errors(out, "strict") == []
    (exported,) = (model for model in MANIFEST["models"] if model["file"] == "payloads.gguf")
    if entry["type"] == "nf4_b64":
        assert decoded(out) == recorded(exported)
    else:
        assert decoded(out).keys() == exported["tensors"].keys()


@pytest.mark.parametrize("entry", CODES)
def test_exported_codes_times_scales(entry: dict[str, Any]) -> None:
    """As the form is documented: code times scale, in float32; of 4 bits, the first in the high nibble."""
    tensors, suffix = load_file(HOME / entry["file"]), ".__scales__"
    found = {}
    for name, numbers in tensors.items():
        if name + suffix in tensors:
            codes, scales = numbers, tensors[name + suffix]
            if codes.dtype == np.uint8:
                pairs = np.stack([codes.view(np.int8) >> 4, (codes << 4).view(np.int8) >> 4], axis=-1)
                codes = pairs.reshape(len(codes), -1)
            weights = codes.astype(np.float32).reshape(*scales.shape, -1) * scales[..., None]
            found[name] = digest(weights)
        elif not name.endswith(suffix):
            found[name] = digest(numbers)
    assert found == entry["tensors"]


# --- interrupted conversions --------------------------------------------------------------------------------


def left(entry: dict[str, Any], directory: Path) -> tuple[Path, Path]:
    """A copy of what an interrupted conversion left; its source, and the output that it was to have."""
    source = Path(shutil.copytree(HOME / "source", directory / "source"))
    there = Path(shutil.copytree(HOME / entry["directory"], directory / "there"))
    out = there / entry["output"]
    assert {path.name for path in there.iterdir()} == {f".{out.name}.journal", f".{out.name}.partial"}
    return source, out


@pytest.mark.parametrize("entry", INTERRUPTED)
def test_an_interrupted_conversion_goes_on_or_says_why_not(entry: dict[str, Any], tmp_path: Path) -> None:
    """Never a mixture. To start afresh, as the message says, gives what nobody interrupted would have."""
    source, out = left(entry, tmp_path)
    whole = gguflow.convert(source, tmp_path / "whole.gguf", type=entry["type"]).output.read_bytes()
    reason = ""
    try:
        gguflow.convert(source, out, type=entry["type"])
    except gguflow.UsageError as error:
        reason = str(error)
    if reason:
        assert "--no-resume" in reason and "resume=False" in reason
        assert not out.exists()
        assert out.with_name(f".{out.name}.partial").exists(), "what was left may still be wanted"
        gguflow.convert(source, out, type=entry["type"], resume=False)
    assert out.read_bytes() == whole
    assert errors(out, "strict") == []
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("entry", INTERRUPTED)
def test_the_command_line_goes_on_or_says_why_not(entry: dict[str, Any], tmp_path: Path) -> None:
    source, out = left(entry, tmp_path)
    arguments = ("convert", str(source), "-t", entry["type"], "-o", str(out), "-q")
    first = gguflow_command(*arguments, check=False)
    if first.returncode != 0:
        assert first.returncode == 2 and "--no-resume" in first.stderr and "Traceback" not in first.stderr
        gguflow_command(*arguments, "--no-resume")
    assert errors(out, "strict") == []
