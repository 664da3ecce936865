"""Measures against their definitions in NumPy, whatever the pieces; sides of every form; text, JSON and the
page of bars.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow import comparison, conversion, exporting
from gguflow.cli.compare import comparison_data, comparison_text
from gguflow.comparison import measures, plot
from gguflow.comparison.measures import TensorMeasures
from gguflow.container.metadata import string
from gguflow.conversion.splitting import Split
from gguflow.errors import InvalidError, UsageError
from gguflow.quantization import dequantize, quantize
from testing.checkpoints import tiny_llama, write_safetensors
from testing.experts import checkpoint as mixture
from testing.gguf_files import array_file


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "checkpoint", hidden=256, ffn=512, n_layers=2, dtype="bfloat16")


def two_files(directory: Path, a: NDArray[Any], b: NDArray[Any]) -> tuple[Path, Path]:
    return write_safetensors(directory / "a.safetensors", {"x": a}), write_safetensors(
        directory / "b.safetensors", {"x": b}
    )


@pytest.mark.parametrize(
    "shape", [(1,), (7,), (3, 5), (40, 96), (1, 5000), (3, 2, 64), (2, 3, 3, 3)], ids=str
)
@pytest.mark.parametrize("sizes", [(1 << 18, 1 << 20), (64, 256)], ids=["usual pieces", "small pieces"])
def test_measures_are_what_they_say(
    tmp_path: Path, shape: tuple[int, ...], sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "TILE", sizes[0])
    monkeypatch.setattr(measures, "PIECE", sizes[1])
    rng = np.random.default_rng(2)
    a = rng.standard_normal(shape).astype(np.float32)
    b = (a + rng.standard_normal(shape) * 0.1).astype(np.float32)
    (found,) = comparison.compare(*two_files(tmp_path, a, b), threads=3).tensors
    x, y = a.astype(np.float64), b.astype(np.float64)
    error = x - y
    result = found.measures
    assert result.rmse == pytest.approx(math.sqrt((error**2).mean()), rel=1e-12)
    assert result.relative_error == pytest.approx(np.linalg.norm(error) / np.linalg.norm(x), rel=1e-12)
    assert result.snr == pytest.approx(10 * math.log10((x**2).sum() / (error**2).sum()), rel=1e-12)
    assert result.cosine == pytest.approx((x * y).sum() / (np.linalg.norm(x) * np.linalg.norm(y)), rel=1e-12)
    assert result.max_error == np.abs(error).max()
    rows = np.sqrt((error.reshape(-1, shape[-1]) ** 2).sum(1) / (x.reshape(-1, shape[-1]) ** 2).sum(1))
    worst = np.argsort(-rows)[:5]
    assert [row.index for row in result.worst_rows] == worst.tolist()
    assert [row.relative_error for row in result.worst_rows] == pytest.approx(rows[worst].tolist(), rel=1e-12)


SPECIAL: dict[str, tuple[list[float], list[float], dict[str, object]]] = {
    "equal": ([1, 2], [1, 2], {"relative_error": 0, "snr": math.inf, "cosine": 1, "is_exact": True}),
    "both zero": ([0, 0], [0, -0.0], {"relative_error": 0, "snr": math.inf, "cosine": 1, "is_exact": True}),
    "only the first zero": (
        [0, 0],
        [1, 2],
        {"relative_error": math.inf, "snr": -math.inf, "cosine": 0, "is_exact": False},
    ),
    "only the second zero": (
        [3, 4],
        [0, 0],
        {"relative_error": 1, "snr": 0, "cosine": 0, "rmse": math.sqrt(12.5)},
    ),
    "opposite": ([1, 2], [-1, -2], {"relative_error": 2, "cosine": -1}),
    "NaN": (
        [1, math.nan, 3],
        [1, 2, 4],
        {"n_non_finite": 1, "max_error": 1, "rmse": math.sqrt(1 / 3), "is_exact": False},
    ),
    "the same infinities": ([math.inf, 1], [math.inf, 1], {"n_non_finite": 1, "rmse": 0, "is_exact": False}),
    "beyond float32 when squared": (
        [1e30, 0],
        [0, 1e30],
        {"relative_error": pytest.approx(math.sqrt(2)), "cosine": 0},
    ),
}


@pytest.mark.parametrize(("a", "b", "expected"), SPECIAL.values(), ids=SPECIAL)
def test_special_values(tmp_path: Path, a: list[float], b: list[float], expected: dict[str, object]) -> None:
    files = two_files(tmp_path, np.array(a, np.float32), np.array(b, np.float32))
    (found,) = comparison.compare(*files).tensors
    assert {name: getattr(found.measures, name) for name in expected} == expected
    json.dumps(comparison_data(comparison.compare(*files)), allow_nan=False)


def test_threads_do_not_matter(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "PIECE", 4096)
    conversion.convert(llama, tmp_path / "q.gguf", type="q4_0")
    assert comparison.compare(llama, tmp_path / "q.gguf", threads=1) == comparison.compare(
        llama, tmp_path / "q.gguf", threads=7, io="pread"
    )


def test_a_quantized_model_against_its_source(tmp_path: Path, llama: Path) -> None:
    """Each side in every form gives the same measures; sizes and formats are those of the files."""
    conversion.convert(llama, tmp_path / "q.gguf", type="q4_k_m")
    conversion.convert(llama, tmp_path / "bf16.gguf", type="bf16")
    shards = conversion.convert(llama, tmp_path / "s.gguf", type="q4_k_m", shards=Split(max_tensors=6)).files
    expected = comparison.compare(llama, tmp_path / "q.gguf")
    assert len(expected.tensors) == 21 and not expected.only_a + expected.only_b + expected.other_shape
    for a in (llama, tmp_path / "bf16.gguf"):
        for b in (tmp_path / "q.gguf", shards[0]):
            found = comparison.compare(a, b)
            assert {t.name: t.measures for t in found.tensors} == {
                t.name: t.measures for t in expected.tensors
            }
    down = next(tensor for tensor in expected.tensors if tensor.name == "blk.1.ffn_down.weight")
    assert down.formats == ("BF16", "Q6_K") and down.nbytes == (2 * 256 * 512, 256 * 512 // 256 * 210)
    assert 0.001 < down.measures.relative_error < 0.05


def test_a_bare_file_is_matched_by_the_names_of_the_checkpoint(tmp_path: Path, llama: Path) -> None:
    """Rows of Q and K are brought back before they are compared."""
    conversion.convert(llama, tmp_path / "q.gguf", type="q8_0")
    exporting.export(tmp_path / "q.gguf", tmp_path / "back.safetensors", dtype="f32")
    assert comparison.compare(tmp_path / "q.gguf", tmp_path / "back.safetensors").total.is_exact
    against_source = comparison.compare(llama, tmp_path / "back.safetensors")
    assert "model.layers.0.self_attn.q_proj.weight" in [tensor.name for tensor in against_source.tensors]
    assert against_source.total.squared_error == pytest.approx(
        comparison.compare(llama, tmp_path / "q.gguf").total.squared_error, rel=1e-12
    )


def test_experts_are_compared_where_they_are_stacked(tmp_path: Path) -> None:
    mixture(tmp_path / "checkpoint", "qwen3moe", dtype="bfloat16")
    conversion.convert(tmp_path / "checkpoint", tmp_path / "bf16.gguf", type="bf16")
    found = comparison.compare(tmp_path / "checkpoint", tmp_path / "bf16.gguf")
    assert found.total.is_exact and (5, 96, 64) in [tensor.shape for tensor in found.tensors]


def test_what_is_not_in_both_is_named(tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    a = write_safetensors(tmp_path / "a.safetensors", {"same": x, "only a": x, "shape": x, "row": x[:1]})
    b = write_safetensors(
        tmp_path / "b.safetensors", {"row": x[0], "shape": x.T.copy(), "same": x, "only b": x}
    )
    found = comparison.compare(a, b)
    assert [tensor.name for tensor in found.tensors] == ["same", "row"]
    assert (found.only_a, found.only_b, found.other_shape) == (("only a",), ("only b",), ("shape",))
    shown = comparison_text(found)
    assert "only a" in shown and "with different shapes: shape" in shown


def test_integers_and_doubles(tmp_path: Path) -> None:
    keys = {"general.architecture": string("any")}
    a = array_file(
        tmp_path / "a.gguf",
        keys,
        {"i": np.array([2**40, 5], np.int64), "d": np.array([1e300, 1.0]), "s": np.array([-7], np.int8)},
    )
    b = array_file(
        tmp_path / "b.gguf",
        keys,
        {"i": np.array([2**40 + 1, 5], np.int64), "d": np.array([1e300, 1.0]), "s": np.array([-7], np.int8)},
    )
    found = {tensor.name: tensor.measures for tensor in comparison.compare(a, b).tensors}
    assert found["i"].max_error == 1 and found["s"].is_exact


def test_quantized_against_quantized(tmp_path: Path) -> None:
    x = np.random.default_rng(4).standard_normal((8, 512)).astype(np.float32)
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": x})
    for kind in ("q4_k", "q6_k"):
        conversion.convert(source, tmp_path / f"{kind}.gguf", type=kind, architecture="any")
    (found,) = comparison.compare(tmp_path / "q4_k.gguf", tmp_path / "q6_k.gguf").tensors
    a, b = (dequantize(quantize(x, kind), kind).astype(np.float64) for kind in ("q4_k", "q6_k"))
    assert found.measures.rmse == pytest.approx(math.sqrt(((a - b) ** 2).mean()), rel=1e-12)


class Bars(HTMLParser):
    """Counts of elements; every one must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["title"]:
            self.titles.append(data)


def test_the_page_has_a_bar_for_each_tensor(tmp_path: Path, llama: Path) -> None:
    conversion.convert(llama, tmp_path / "q.gguf", type="q4_k_m")
    text = plot.page(comparison.compare(llama, tmp_path / "q.gguf"))
    bars = Bars(text)
    assert (
        not bars.open
        and bars.seen.count("rect") == 21
        and bars.seen.count("svg") == bars.seen.count("h2") == 10
    )
    assert any(
        re.fullmatch(r"blk\.1\.ffn_up\.weight: BF16 to Q4_K, [\d.]+ dB, relative error .*", title)
        for title in bars.titles
    )
    assert not re.search(r"https?:|src=|@import|<script", text)


def test_names_from_files_do_not_become_markup(tmp_path: Path) -> None:
    x = np.ones(4, np.float32)
    name = "</svg><script>alert('&')</script>\x1b[2J"
    a, b = (
        write_safetensors(tmp_path / f"{side}.safetensors", {name: x * scale})
        for side, scale in (("a", 1), ("b", 2))
    )
    found = comparison.compare(a, b)
    bars = Bars(plot.page(found))
    assert "script" not in bars.seen and not bars.open
    assert "\x1b" not in comparison_text(found)
    assert "\x1b" not in comparison_text(dataclasses.replace(found, tensors=(), only_a=(name,)))


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    x = np.ones((4, 64), np.float32)
    a, b = (write_safetensors(tmp_path / f"{side}.safetensors", {"x": x, "y": x}) for side in "ab")
    with pytest.raises(InvalidError, match="changed"):
        comparison.compare(a, b, progress=lambda done, of: os.utime(b, ns=(1, 1)))
    with pytest.raises(UsageError):
        comparison.compare(a, b, io="telepathy")


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Anonymous memory of a thread does not grow with the model: 4 times the size, the same within 8 MB."""
    sizes = []
    for n_rows in (1 << 12, 1 << 14):
        x = np.zeros((n_rows, 1 << 10), np.float32)
        a, b = (write_safetensors(tmp_path / f"{side}{n_rows}.safetensors", {"x": x}) for side in "ab")
        program = """
import sys
from gguflow import comparison
comparison.compare(*sys.argv[1:], threads=1, io="mmap")
fields = dict(line.split(":") for line in open("/proc/self/status"))
print(int(fields["RssAnon"].split()[0]))
"""
        done = subprocess.run(
            [sys.executable, "-c", program, str(a), str(b)], capture_output=True, text=True, check=True
        )
        sizes.append(int(done.stdout))
    assert sizes[1] - sizes[0] < 8000


def test_measures_add_up() -> None:
    a, b = TensorMeasures(2, 0, 4.0, 5.0, 1.0, 4.0, 0.5), TensorMeasures(3, 1, 1.0, 1.0, 2.0, 0.5, 0.75)
    assert a + b == TensorMeasures(5, 1, 5.0, 6.0, 3.0, 4.5, 0.75)
    assert TensorMeasures().rmse == 0 and TensorMeasures().cosine == 1


def test_the_picture_is_a_png(tmp_path: Path, llama: Path) -> None:
    """Drawn by matplotlib: a bar for each tensor, pale where nothing is lost."""
    conversion.convert(llama, tmp_path / "q.gguf", type="q4_0")
    target = tmp_path / "picture.png"
    plot.write(comparison.compare(llama, tmp_path / "q.gguf"), target)
    content = target.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 5000
