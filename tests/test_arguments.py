"""Wrong arguments of the public functions: a typed error that says what was expected, or the right result;
never a traceback of something further inside.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflow
from gguflow import GguflowError, ShapeError, UnknownFormatError, UsageError
from gguflow.arguments import choice, file_path, integer, number_in, real, shown, suggestion, texts
from gguflow.container.limits import Limits
from gguflow.conversion.splitting import Split
from gguflow.inference.sampling import Sampler
from gguflow.threads import MOST, WORTHWHILE, resolve
from testing.checkpoints import TINY

HUGE = 10**5000
"""More digits than Python is willing to print."""

X = np.linspace(-1, 1, 1024, dtype=np.float32).reshape(4, 256)


@pytest.fixture(scope="module")
def blocks() -> Any:
    return gguflow.quantize(X, "q4_k")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arguments") / "model.gguf"
    gguflow.convert(TINY, path, type="q8_0")
    return path


def refused(call: Callable[[], Any], error: type[GguflowError] = UsageError) -> str:
    """The words with which a call is refused; they are of a readable length."""
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value)) < 1500
    return str(caught.value)


# --- threads

NO_THREADS: dict[str, Any] = {
    "zero": 0,
    "negative": -1,
    "huge": HUGE,
    "one more than the most": MOST + 1,
    "true": True,
    "false": False,
    "NumPy's true": np.True_,
    "float": 1.5,
    "whole float": 2.0,
    "text": "2",
    "bytes": b"2",
    "list": [2],
}

TAKES_THREADS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "quantize": lambda threads, blocks, model: gguflow.quantize(X, "q4_k", threads=threads),
    "quantize nothing": lambda threads, blocks, model: gguflow.quantize(X[:0], "q4_k", threads=threads),
    "quantize numbers": lambda threads, blocks, model: gguflow.quantize(
        np.arange(4, dtype=np.int32), "i32", threads=threads
    ),
    "quantize a payload": lambda threads, blocks, model: gguflow.quantize(X, "nf4_b64", threads=threads),
    "dequantize": lambda threads, blocks, model: gguflow.dequantize(blocks, "q4_k", threads=threads),
    "dequantize numbers": lambda threads, blocks, model: gguflow.dequantize(
        blocks[:, :8], "f64", threads=threads
    ),
    "fake_quantize": lambda threads, blocks, model: gguflow.fake_quantize(X, "q4_k", threads=threads),
    "matmul": lambda threads, blocks, model: gguflow.matmul(blocks, X, format="q4_k", threads=threads),
    "convert": lambda threads, blocks, model: gguflow.convert(
        TINY, model.with_name("unwritten.gguf"), threads=threads
    ),
    "export": lambda threads, blocks, model: gguflow.export(
        model, model.with_name("unwritten"), threads=threads
    ),
    "compare": lambda threads, blocks, model: gguflow.compare(model, model, threads=threads),
    "edit": lambda threads, blocks, model: gguflow.edit(
        model, [], ["general.name"], output=model.with_name("unwritten.gguf"), threads=threads
    ),
    "validate": lambda threads, blocks, model: gguflow.validate(model, "values", threads=threads),
}


@pytest.mark.parametrize("threads", NO_THREADS.values(), ids=NO_THREADS)
@pytest.mark.parametrize("call", TAKES_THREADS.values(), ids=TAKES_THREADS)
def test_what_is_no_number_of_threads(
    call: Callable[[Any, Any, Path], Any], threads: Any, blocks: Any, model: Path
) -> None:
    message = refused(lambda: call(threads, blocks, model))
    assert message.startswith(f"threads must be an integer from 1 to {MOST}, or None for every processor")
    assert not list(model.parent.glob("unwritten*"))


@pytest.mark.parametrize("threads", NO_THREADS.values(), ids=NO_THREADS)
def test_threads_of_tensors(threads: Any, model: Path) -> None:
    with gguflow.open(model) as opened:
        tensor = opened["blk.0.attn_q.weight"]
        x = np.zeros(tensor.shape[1], np.float32)
        refused(lambda: tensor.dequantize(threads=threads))
        refused(lambda: tensor.matmul(x, threads=threads))
        refused(lambda: gguflow.matmul(tensor, x, threads=threads))


def test_none_is_the_default_of_threads() -> None:
    functions: list[Callable[..., Any]] = [
        *(gguflow.quantize, gguflow.dequantize, gguflow.fake_quantize, gguflow.matmul, gguflow.convert),
        *(gguflow.export, gguflow.compare, gguflow.edit, gguflow.validate),
        *(gguflow.Tensor.dequantize, gguflow.Tensor.matmul),
    ]
    assert {inspect.signature(function).parameters["threads"].default for function in functions} == {None}


def test_small_work_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gguflow.threads.available_cpus", lambda: 7)
    assert resolve(None) == resolve(None, WORTHWHILE) == 7
    assert resolve(None, WORTHWHILE - 1) == 1
    assert resolve(3, 0) == resolve(np.int64(3)) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [None, 1, 2, 3, MOST])
def test_results_do_not_depend_on_threads(threads: int | None) -> None:
    x = np.random.default_rng(0).standard_normal((5, 1 << 18), np.float32)
    packed = gguflow.quantize(x, "q8_0", threads=threads)
    assert packed.tobytes() == gguflow.quantize(x, "q8_0", threads=1).tobytes()
    weights = gguflow.dequantize(packed, "q8_0", threads=threads)
    assert weights.tobytes() == gguflow.dequantize(packed, "q8_0", threads=1).tobytes()
    assert weights.tobytes() == gguflow.fake_quantize(x, "q8_0", threads=threads).tobytes()


def test_single_rows_on_several_threads(model: Path) -> None:
    with gguflow.open(model) as opened:
        tensor = opened["token_embd.weight"]
        rows = list(range(0, tensor.shape[0], 3)) * 20
        assert np.array_equal(tensor.dequantize(rows, threads=3), tensor.dequantize(threads=1)[rows])


# --- formats

NO_FORMATS: dict[str, Any] = {
    "None": None,
    "number": 12,
    "NumPy's number": np.int64(12),
    "list": ["q4_k"],
    "bytes": b"q4_k",
    "an object": object(),
    "empty": "",
    "misspelt": "q4_kk",
    "NUL": "q4_k\0",
    "long": "x" * 100_000,
}

TAKES_FORMAT: dict[str, Callable[[Any, Any, Path], Any]] = {
    "quantize": lambda name, blocks, path: gguflow.quantize(X, name),
    "dequantize": lambda name, blocks, path: gguflow.dequantize(blocks, name),
    "fake_quantize": lambda name, blocks, path: gguflow.fake_quantize(X, name),
    "RowStore": lambda name, blocks, path: gguflow.RowStore(path / "rows.gguf", name, 256),
    "formats": lambda name, blocks, path: gguflow.formats[name],
    "Options": lambda name, blocks, path: gguflow.Options(
        output_tensor_type=b"" if name is None else name  # type: ignore[arg-type]  # None: no such option
    ),
}


@pytest.mark.parametrize("format", NO_FORMATS.values(), ids=NO_FORMATS)
@pytest.mark.parametrize("call", TAKES_FORMAT.values(), ids=TAKES_FORMAT)
def test_what_is_no_format(
    call: Callable[[Any, Any, Path], Any], format: Any, blocks: Any, tmp_path: Path
) -> None:
    is_default = format is None and call is TAKES_FORMAT["RowStore"]
    refused(lambda: call(format, blocks, tmp_path), UsageError if is_default else UnknownFormatError)


MISSPELT = {
    "Q4_KM": "q4_k",
    "nf4b64": "nf4_b64",
    "nf4-b64": "nf4_b64",
    "IQ4XS": "iq4_xs",
    "mxpf4": "mxfp4",
    "zzzzzz": "",
}


@pytest.mark.parametrize(("name", "meant"), MISSPELT.items(), ids=MISSPELT)
def test_the_nearest_format_is_named(name: str, meant: str) -> None:
    message = refused(lambda: gguflow.quantize(X, name), UnknownFormatError)
    assert message.endswith(f"; did you mean {meant}?") if meant else "did you mean" not in message


def test_formats_are_found_in_any_case() -> None:
    assert gguflow.formats["Q4_K"] is gguflow.formats["q4_k"] is gguflow.formats["q4_K"]
    assert "Q8_0" in gguflow.formats and "q9" not in gguflow.formats
    assert gguflow.formats.get("q9") is None
    with pytest.raises(KeyError, match=r"^unknown block format 'q4_kk'; known: .*did you mean q4_k\?$"):
        gguflow.formats["q4_kk"]


TYPES: dict[str, tuple[Any, str]] = {
    "number": (15, "a type is a name"),
    "bytes": (b"q4_k_m", "a type is a name"),
    "misspelt recipe": ("q4_km", "did you mean q4_k_m?"),
    "misspelt encoding": ("nf4_b46", "did you mean nf4_b64?"),
    "one of several": ("q8_0,q4_k_", "did you mean q4_k"),
    "empty": ("", "unknown type ''"),
    "many": ("q8_0," * 100_000, "a type is a name, or several with commas"),
    "many parameters": ("sb:" + "bits=3," * 100_000, "a type is a name, or several with commas"),
    "a long suffix": ("q8_0+" + "z" * 3000, "does not take '+zzz"),
}


@pytest.mark.parametrize(("type", "message"), TYPES.values(), ids=TYPES)
def test_what_is_no_type(type: Any, message: str, tmp_path: Path) -> None:
    assert message in refused(lambda: gguflow.convert(TINY, tmp_path / "{type}.gguf", type=type))


ENCODINGS = {
    "without parameters": ("sb:", "write each parameter once, as key=value"),
    "twice": ("sb:bits=3,bits=4,block=16", "write each parameter once"),
    "100,000 items": ("sb:" + "bits=3," * 100_000, "at most 400 characters"),
    "5000 digits": ("sb:bits=" + "9" * 5000, "at most 400 characters"),
    "300 digits": ("sb:bits=" + "9" * 300, "is not an integer from 0 to 999999999"),
    "Arabic digits": ("sb:bits=٣,block=16", "is not an integer"),
    "full-width digits": ("sb:bits=3,block=16,clip=\uff11", "is not a number"),
    "underscore": ("sb:bits=3,block=1_6", "is not an integer"),
    "negative": ("sb:bits=-3,block=16", "is not an integer"),
    "NaN": ("sb:bits=3,block=16,clip=nan", "is not a number"),
    "infinity": ("sb:bits=3,block=16,clip=inf", "is not a number"),
    "beyond any number": ("sb:bits=3,block=16,clip=1e400", "out of range for binary32"),
    "beyond binary32": ("sb:bits=3,block=16,clip=1e39", "out of range for binary32"),
    "outliers beyond any number": ("nf4_b64+outliers=1e400%", "is out of range"),
    "a misspelt parameter": ("sb:bits=3,blok=16", "did you mean block?"),
    "a misspelt codebook": ("sb:bits=4,block=16,codebook=kmean", "did you mean kmeans?"),
    "a misspelt range": ("sb:bits=3,block=16,range=serch", "range=full or range=search"),
    "a suffix twice": ("nf4_b64+zstd+zstd", "+zstd stands twice"),
    "a suffix that is none": ("nf4_b64+gzip", "unknown suffix '+gzip'"),
    "letters that grow in lower case": ("sb:bits=İ,block=16", "is not an integer"),
}


@pytest.mark.parametrize(("name", "message"), ENCODINGS.values(), ids=ENCODINGS)
def test_what_is_no_encoding(name: str, message: str) -> None:
    assert message in refused(lambda: gguflow.quantize(X, name))
    assert message in refused(lambda: gguflow.Options(tensor_types=(f"x={name}",)))


# --- arrays

NO_ARRAYS: dict[str, Any] = {
    "None": None,
    "ragged list": [[1.0], [1.0, 2.0]],
    "objects": np.array([object()] * 256),
    "complex": X.astype(np.complex64),
    "booleans": X.astype(bool),
    "masked": np.ma.array(X, mask=X > 0),
    "text": "weights",
    "texts": ["a"] * 256,
    "times": np.zeros(256, "M8[s]"),
    "records": np.zeros(256, [("weight", np.float32)]),
    "a number": 1.0,
    "a huge number": HUGE,
    "huge numbers": [HUGE] * 256,
    "a dictionary": {},
    "bytes": b"weights",
}


@pytest.mark.parametrize("x", NO_ARRAYS.values(), ids=NO_ARRAYS)
@pytest.mark.parametrize("format", ["q4_k", "f16", "i8", "nf4_b64"])
def test_what_is_no_array(x: Any, format: str, blocks: Any) -> None:
    refused(lambda: gguflow.quantize(x, format), ShapeError)
    refused(lambda: gguflow.dequantize(x, format), ShapeError)
    if format != "i8":
        refused(lambda: gguflow.fake_quantize(x, format), ShapeError)
    if format == "q4_k":
        refused(lambda: gguflow.matmul(blocks, x, format=format), ShapeError)
        refused(lambda: gguflow.matmul(x, X, format=format), ShapeError)
        refused(lambda: gguflow.dequantize(x, "auto"), ShapeError)


def test_arrays_that_raise_when_they_are_asked() -> None:
    class Raises:
        def __array__(self, *arguments: Any, **options: Any) -> Any:
            raise RuntimeError("this array is elsewhere")

    assert refused(lambda: gguflow.quantize(Raises(), "q4_k"), ShapeError).endswith("this array is elsewhere")


def test_bytes_are_told_how_they_become_blocks(blocks: Any) -> None:
    assert "np.frombuffer" in refused(lambda: gguflow.dequantize(blocks.tobytes(), "q4_k"), ShapeError)


def test_arrays_that_are_right_in_another_form() -> None:
    right = gguflow.quantize(X, "q4_k").tobytes()
    forms: list[Any] = [
        X.tolist(),
        np.ma.array(X, mask=False),
        X.view(np.memmap),
        np.asfortranarray(X),
        X.astype(">f4"),
    ]
    for form in forms:
        assert gguflow.quantize(form, "q4_k").tobytes() == right


@pytest.mark.parametrize("format", ["q4_k", "f16", "nf4_b64"])
def test_doubles_that_are_too_large_are_infinite(format: str) -> None:
    x = X.astype(np.float64)
    x[1, 2] = 1e300
    with pytest.raises(gguflow.NonFiniteError) as caught:
        gguflow.quantize(x, format)
    assert caught.value.index == 258


NO_OUTPUTS: dict[str, Callable[[Any], Any]] = {
    "list": lambda right: right.tolist(),
    "text": lambda right: "out",
    "number": lambda right: HUGE,
    "masked": np.ma.array,
    "read-only": lambda right: np.broadcast_to(right, right.shape),
    "another shape": lambda right: right[:1],
    "another type": lambda right: right.astype(np.float16),
    "reversed": lambda right: right[::-1],
    "by columns": np.asfortranarray,
    "big-endian": lambda right: right.astype(">i4"),
    "class": lambda right: type(right),
}


@pytest.mark.parametrize("spoil", NO_OUTPUTS.values(), ids=NO_OUTPUTS)
def test_what_is_no_output(spoil: Callable[[Any], Any], blocks: Any) -> None:
    packed, weights = spoil(np.zeros_like(blocks)), spoil(np.zeros_like(X))
    product = spoil(np.zeros((4, 4), np.float32))
    refused(lambda: gguflow.quantize(X, "q4_k", out=packed), ShapeError)
    refused(lambda: gguflow.dequantize(blocks, "q4_k", out=weights), ShapeError)
    refused(lambda: gguflow.fake_quantize(X, "q4_k", out=weights), ShapeError)
    refused(lambda: gguflow.fake_quantize(X, "nf4_b64", out=weights), ShapeError)
    refused(lambda: gguflow.matmul(blocks, X, format="q4_k", out=product), ShapeError)


NO_IMPORTANCE: dict[str, tuple[Any, type[GguflowError]]] = {
    "another length": (np.ones(3), ShapeError),
    "two dimensions": (np.ones((1, 256)), ShapeError),
    "a number": (1.0, ShapeError),
    "NaN": (np.full(256, np.nan), UsageError),
    "infinite": (np.full(256, np.inf), UsageError),
    "infinite as float32": (np.full(256, 1e300), UsageError),
    "sums would be infinite": (np.full(256, 3e38), UsageError),
    "negative": (-np.ones(256), UsageError),
    "complex": (np.ones(256, np.complex64), ShapeError),
    "texts": (["1"] * 256, ShapeError),
    "ragged": ([[1], [1, 2]], ShapeError),
    "huge numbers": ([HUGE] * 256, ShapeError),
    "Nones": ([None] * 256, ShapeError),
    "masked": (np.ma.array(np.ones(256), mask=np.arange(256) < 3), ShapeError),
}


@pytest.mark.parametrize(("importance", "error"), NO_IMPORTANCE.values(), ids=NO_IMPORTANCE)
@pytest.mark.parametrize("format", ["q4_k", "q8_0", "f16", "kmeans4_row"])
def test_what_is_no_importance(importance: Any, error: type[GguflowError], format: str) -> None:
    refused(lambda: gguflow.quantize(X, format, importance), error)
    refused(lambda: gguflow.fake_quantize(X, format, importance), error)


# --- overlap of input and output

SHIFTS = {"same place": 0, "one weight on": 4, "within a block": 64, "a block on": 1024, "one byte on": 1}


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize("is_before", [False, True], ids=["behind", "before"])
@pytest.mark.parametrize("threads", [1, 2])
def test_overlap_of_input_and_output(shift: int, is_before: bool, threads: int) -> None:
    """Each as if the input had been copied first."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((256, 1024), np.float32)
    packed = gguflow.quantize(x, "q8_0")
    weights = gguflow.dequantize(packed, "q8_0")
    vectors = x[:3]
    product = gguflow.matmul(packed, vectors, format="q8_0")
    first, second = (shift, 0) if is_before else (0, shift)

    def placed(array: Any, memory: Any) -> Any:
        view = memory[first:][: array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view

    def output(like: Any, memory: Any) -> Any:
        return memory[second:][: like.nbytes].view(like.dtype).reshape(like.shape)

    memory = np.zeros(x.nbytes + 4096, np.uint8)
    assert np.array_equal(
        gguflow.quantize(placed(x, memory), "q8_0", threads=threads, out=output(packed, memory)), packed
    )
    assert np.array_equal(
        gguflow.fake_quantize(placed(x, memory), "q8_0", threads=threads, out=output(x, memory)), weights
    )
    assert np.array_equal(
        gguflow.dequantize(placed(packed, memory), "q8_0", threads=threads, out=output(x, memory)), weights
    )
    if shift % 4 == 0:  # of x
        result = gguflow.matmul(
            packed, placed(vectors, memory), format="q8_0", threads=threads, out=output(product, memory)
        )
        assert np.array_equal(result, product)
    result = gguflow.matmul(
        placed(packed, memory), vectors, format="q8_0", threads=threads, out=output(product, memory)
    )
    assert np.array_equal(result, product)


@pytest.mark.parametrize(
    "turned", [np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1]], ids=["rows", "columns", "all"]
)
def test_reversed_views_of_the_output(turned: Any) -> None:
    x = np.random.default_rng(2).standard_normal((64, 512), np.float32)
    right = gguflow.fake_quantize(x[turned].copy(), "q4_k")
    assert np.array_equal(gguflow.fake_quantize(x[turned], "q4_k", out=x), right)


def test_importance_that_lies_in_the_output() -> None:
    x = np.random.default_rng(3).standard_normal((8, 256), np.float32)
    importance = np.linspace(0, 1, 256, dtype=np.float32)
    right = gguflow.fake_quantize(x, "q4_k", importance)
    out = np.empty_like(x)
    out[0] = importance
    assert np.array_equal(gguflow.fake_quantize(x, "q4_k", out[0], out=out), right)


# --- paths, sizes, words

NO_PATHS: dict[str, tuple[Any, str]] = {
    "None": (None, "must be a path"),
    "number": (3, "must be a path"),
    "bytes": (b"model.gguf", "os.fsdecode"),
    "NUL": ("model\0.gguf", "NUL"),
    "empty": ("", "not an empty text"),
    "list": (["model.gguf"], "must be a path"),
}

TAKES_PATH: dict[str, Callable[[Any, Path], Any]] = {
    "convert": lambda path, model: gguflow.convert(path, model.with_name("unwritten.gguf")),
    "export": lambda path, model: gguflow.export(path, model.with_name("unwritten")),
    "export to": lambda path, model: gguflow.export(model, path),
    "compare": lambda path, model: gguflow.compare(path, model),
    "compare with": lambda path, model: gguflow.compare(model, path),
    "edit": lambda path, model: gguflow.edit(path, [], ["general.name"]),
    "validate": lambda path, model: gguflow.validate(path),
    "open": lambda path, model: gguflow.open(path),
    "RowStore": lambda path, model: gguflow.RowStore(path, "q8_0", 32),
}


@pytest.mark.parametrize(("path", "message"), NO_PATHS.values(), ids=NO_PATHS)
@pytest.mark.parametrize("call", TAKES_PATH.values(), ids=TAKES_PATH)
def test_what_is_no_path(call: Callable[[Any, Path], Any], path: Any, message: str, model: Path) -> None:
    assert message in refused(lambda: call(path, model))
    assert not list(model.parent.glob("unwritten*"))


def test_whatever_is_a_path_to_python(model: Path) -> None:
    class Named:
        def __fspath__(self) -> str:
            return str(model)

    assert gguflow.validate(Named()) == []
    with gguflow.open(Named()) as opened:
        assert len(opened)


MISUSES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "level": (lambda model: gguflow.validate(model, "valeus"), "did you mean values?"),
    "level, number": (lambda model: gguflow.validate(model, 1), "level must be structure,"),  # type: ignore[arg-type]
    "io of open": (lambda model: gguflow.open(model, io="mmpa"), "did you mean mmap?"),
    "io of compare": (lambda model: gguflow.compare(model, model, io="read"), "io must be mmap or pread"),
    "io of convert": (lambda model: gguflow.convert(TINY, io="read"), "io must be mmap or pread"),
    "form": (lambda model: gguflow.export(model, model, form="safetensor"), "did you mean safetensors?"),
    "dtype of export": (
        lambda model: gguflow.export(model, model, dtype="int4"),
        "weights can be exported as",
    ),
    "dtype, number": (lambda model: gguflow.export(model, model, dtype=16), "weights can be exported as"),  # type: ignore[arg-type]
    "memory, negative": (
        lambda model: gguflow.convert(TINY, memory_limit=-1),
        "memory_limit must be an integer",
    ),
    "memory, huge": (
        lambda model: gguflow.convert(TINY, memory_limit=HUGE),
        "memory_limit must be an integer",
    ),
    "memory, text": (lambda model: gguflow.convert(TINY, memory_limit="1G"), "not '1G'"),  # type: ignore[arg-type]
    "memory, too little": (lambda model: gguflow.convert(TINY, memory_limit=0), "is too small"),
    "skip_tensors, one text": (
        lambda model: gguflow.convert(TINY, skip_tensors="abc"),
        "tuple of texts",
    ),
    "tensor_types, one text": (
        lambda model: gguflow.Options(tensor_types="a=q4_k"),  # type: ignore[arg-type]
        "tuple of texts",
    ),
    "pure, text": (lambda model: gguflow.Options(pure="no"), "pure must be True or False"),  # type: ignore[arg-type]
    "edit, a number": (lambda model: gguflow.edit(model, [("general.name", 1)]), "gguflow's Value"),  # type: ignore[list-item]
    "edit, a text": (lambda model: gguflow.edit(model, "a=str:b"), "gguflow's Value"),  # type: ignore[arg-type]
    "edit, remove a text": (lambda model: gguflow.edit(model, [], "general.name"), "tuple of texts"),
    "overwrite": (lambda model: gguflow.convert(TINY, overwrite="no"), "True or False"),  # type: ignore[arg-type]
    "shards, huge": (lambda model: Split(max_nbytes=HUGE), "max_nbytes must be an integer"),
    "shards, float": (lambda model: Split(max_tensors=1.5), "max_tensors must be an integer"),  # type: ignore[arg-type]
    "shards, true": (lambda model: Split(max_tensors=True), "max_tensors must be an integer"),
    "shards, none": (lambda model: Split(max_tensors=0), "1 or more"),
    "options": (lambda model: gguflow.convert(TINY, options={"pure": True}), "of the class Options"),  # type: ignore[arg-type]
    "options, false": (lambda model: gguflow.convert(TINY, options=False), "of the class Options"),  # type: ignore[arg-type]
    "shards, number": (lambda model: gguflow.convert(TINY, shards=3), "of the class Split"),  # type: ignore[arg-type]
    "architecture, bytes": (lambda model: gguflow.convert(TINY, architecture=b"llama"), "a text or None"),  # type: ignore[arg-type]
    "strip_prefix, number": (lambda model: gguflow.convert(TINY, strip_prefix=1), "a text or None"),  # type: ignore[arg-type]
    "strip_prefix, array": (lambda model: gguflow.convert(TINY, strip_prefix=X), "a text or None"),  # type: ignore[arg-type]
    "progress": (
        lambda model: gguflow.convert(TINY, model.with_name("unwritten.gguf"), progress=True),  # type: ignore[arg-type]
        "progress must be a function or None",
    ),
    "progress of export": (
        lambda model: gguflow.export(model, model.with_name("unwritten"), progress="x"),  # type: ignore[arg-type]
        "progress must be a function or None",
    ),
    "progress of compare": (
        lambda model: gguflow.compare(model, model, progress=[]),  # type: ignore[arg-type]
        "progress must be a function or None",
    ),
    "follow_links of compare": (lambda model: gguflow.compare(model, model, follow_links=1), "True or False"),  # type: ignore[arg-type]
    "limits": (lambda model: gguflow.validate(model, limits=5), "of the class Limits"),  # type: ignore[arg-type]
    "limits, text": (lambda model: Limits(n_keys="5"), "n_keys must be an integer"),  # type: ignore[arg-type]
    "limits, negative": (lambda model: Limits(n_tensors=-1), "n_tensors must be an integer"),
    "texts, an array without an axis": (
        lambda model: gguflow.Options(override_kv=np.array("a=int:1")),  # type: ignore[arg-type]
        "tuple of texts",
    ),
    "edit, a path": (lambda model: gguflow.edit(model, model), "gguflow's Value"),  # type: ignore[arg-type]
    "edit, None": (lambda model: gguflow.edit(model, None), "gguflow's Value"),  # type: ignore[arg-type]
    "mode": (lambda model: gguflow.RowStore(model, mode="rw"), "mode must be w, a or r"),
    "width, huge": (lambda model: gguflow.RowStore(model.with_name("r"), "q8_0", HUGE), "a row has 1 to"),
    "activations": (
        lambda model: gguflow.matmul(np.zeros((4, 144), np.uint8), X, format="q4_k", activations="int4"),
        "did you mean int8?",
    ),
    "rows without a format": (
        lambda model: gguflow.matmul(np.zeros((4, 144), np.uint8), X),
        "need their format",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISUSES.values(), ids=MISUSES)
def test_misuse(call: Callable[[Path], Any], message: str, model: Path) -> None:
    assert message in refused(lambda: call(model))


NO_ROWS: dict[str, Any] = {
    "true": True,
    "float": 1.5,
    "text": "1",
    "huge": HUGE,
    "huge, from the end": -HUGE,
    "beyond": 10**6,
    "slice of texts": slice("a", "b"),
    "slice of floats": slice(0.5, 2),
    "slice of an array": slice(np.array([1, 2]), None),
    "slice without a step": slice(0, 4, 0),
    "list of texts": ["a"],
    "list of huge": [HUGE],
    "complex": 2j,
}


@pytest.mark.parametrize("rows", NO_ROWS.values(), ids=NO_ROWS)
def test_what_are_no_rows(rows: Any, model: Path) -> None:
    with gguflow.open(model) as opened:
        refused(lambda: opened["blk.0.attn_q.weight"].dequantize(rows))


NO_NAMES: dict[str, Any] = {
    "None": None,
    "number": HUGE,
    "bytes": b"output.weight",
    "list": ["output.weight"],
    "array": X,
    "long": "x" * 10**6,
    "none of them": "output.wieght",
    "empty": "",
}


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES)
def test_what_names_no_tensor(name: Any, model: Path) -> None:
    with gguflow.open(model) as opened:
        assert "has no tensor" in refused(lambda: opened[name])
        assert name not in opened
        assert opened.get(name) is None
        with pytest.raises(KeyError):
            opened[name]


NO_ROW: dict[str, Any] = {
    "negative": -1,
    "huge": HUGE,
    "float": 1.5,
    "text": "1",
    "bytes": b"1",
    "true": True,
    "list": [1],
    "array": np.array([1, 2]),
    "complex": 2j,
    "NaN": float("nan"),
}


@pytest.mark.parametrize("row", NO_ROW.values(), ids=NO_ROW)
def test_what_is_no_row_of_a_store(row: Any, tmp_path: Path) -> None:
    with gguflow.RowStore(tmp_path / "rows", "q8_0", 256) as store:
        store.append(X)
        for call in (store.rows, store.raw, lambda row: store.rows(0, row), lambda row: store.raw(0, row)):
            refused(lambda call=call: call(row))  # type: ignore[misc]
        assert len(store.rows(np.int64(1), np.int64(3))) == 2  # type: ignore[arg-type]


SAMPLERS: dict[str, dict[str, Any]] = {
    "temperature, negative": {"temperature": -1},
    "temperature, NaN": {"temperature": float("nan")},
    "temperature, infinite": {"temperature": float("inf")},
    "temperature, huge": {"temperature": HUGE},
    "temperature, text": {"temperature": "1"},
    "temperature, None": {"temperature": None},
    "top_k, negative": {"top_k": -1},
    "top_k, huge": {"top_k": HUGE},
    "top_k, float": {"top_k": 1.5},
    "top_k, true": {"top_k": True},
    "top_p, zero": {"top_p": 0},
    "top_p, above one": {"top_p": 1.5},
    "top_p, NaN": {"top_p": float("nan")},
    "min_p, NaN": {"min_p": float("nan")},
    "min_p, text": {"min_p": "x"},
    "seed, negative": {"seed": -1},
    "seed, huge": {"seed": HUGE},
    "seed, float": {"seed": 1.5},
}


@pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
def test_what_no_sampler_takes(options: dict[str, Any]) -> None:
    assert next(iter(options)) in refused(lambda: Sampler(**options))


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-40, 1e-9])
def test_a_temperature_near_zero_takes_the_best_token(temperature: float) -> None:
    logits = np.array([1.0, 3.0, 2.999, -50.0], np.float32)
    assert {Sampler(temperature, seed=seed, min_p=0).pick(logits) for seed in range(20)} == {1}


def test_samplers_at_the_other_ends() -> None:
    logits = np.array([1.0, 3.0, 2.0, -50.0], np.float32)
    hot = Sampler(1e300, top_k=1 << 62, top_p=1, min_p=0, seed=(1 << 128) - 1)
    assert {hot.pick(logits) for _ in range(200)} == {0, 1, 2, 3}
    assert Sampler(np.float32(0.5), top_k=np.int64(1)).pick(logits) == 1  # type: ignore[arg-type]


# --- the package itself


def test_dir_shows_the_public_names() -> None:
    assert set(dir(gguflow)) == {*gguflow.__all__, "__doc__", "__version__"}


@pytest.mark.parametrize(("name", "meant"), [("quantise", "quantize"), ("Rowstore", "RowStore"), ("zzz", "")])
def test_a_misspelt_name_of_the_package(name: str, meant: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(gguflow, name)
    hint = f"; did you mean {meant}?" if meant else ""
    assert str(caught.value) == f"module 'gguflow' has no attribute '{name}'{hint}"


def test_type_checkers_know_every_name() -> None:
    """A `__getattr__` that they saw would make every misspelt name right, so it is hidden from them, and each
    name is imported instead.
    """
    tree = ast.parse(Path(gguflow.__file__).read_text(encoding="utf-8"))
    assert "__getattr__" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    seen = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for found in node.body
        if isinstance(found, ast.ImportFrom)
        for alias in found.names
    }
    assert seen == set(gguflow.__all__)


@pytest.mark.slow
def test_a_misspelt_name_is_an_error_for_mypy(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import gguflow\ngguflow.quantize\ngguflow.quantise\n")
    command = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "script.py:3" in found and 'maybe "quantize"' in found and "script.py:2" not in found


# --- the checks themselves


def test_values_are_shown_shortly() -> None:
    assert shown("a" * 81) == f"'{'a' * 80}' and 1 more"
    assert shown(HUGE) == "2**16609 or more" and shown(-HUGE) == "-2**16609 or more"
    assert shown("\x1b[31m") == "'\\x1b[31m'"
    assert (shown(None), shown(True), shown(12), shown(b"x"), shown([1])) == (
        *("None", "True", "12", "b'x'"),
        "a value of type list",
    )


def test_suggestions() -> None:
    assert suggestion("Q4_KK", ["q4_k", "q8_0"]) == "; did you mean q4_k?"
    assert suggestion("q" * 101, ["q" * 100]) == suggestion("", ["a"]) == ""


def test_the_checks_give_what_is_right() -> None:
    assert (integer(np.uint8(3), "n", 1), real(1, "x", 0, 1), choice("a", "x", "ab")) == (3, 1.0, "a")
    assert (texts(["a", "b"], "x"), file_path("a/b", "x"), number_in("-1.5e3")) == (
        *(("a", "b"), Path("a/b")),
        -1500.0,
    )
    refused(lambda: texts("ab", "x"))
    refused(lambda: texts([1], "x"))
