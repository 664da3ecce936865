"""Opening models: what tensors give is what the files hold; what is broken does not open; nothing is read
before it is touched.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflow
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container.header import TensorInfo
from gguflow.container.mapped_file import IO_MODES
from gguflow.container.metadata import ValueType, array, string
from gguflow.container.shards import ShardName
from gguflow.container.writer import build
from gguflow.conversion.splitting import Split
from gguflow.errors import GguflowError, InvalidError, ShapeError, StorageError, UnsupportedError, UsageError
from testing.checkpoints import FIXTURES, TINY, tiny_llama
from testing.experts import checkpoint as mixture
from testing.fuzzing.targets import touch
from testing.gguf_files import one_tensor

FILES = FIXTURES / "files"
MANIFEST: list[dict[str, Any]] = json.loads((FILES / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    return gguflow.convert(
        tiny_llama(directory / "checkpoint", hidden=256, ffn=512), directory / "model.gguf", type="q4_k_m"
    ).output


@pytest.mark.parametrize("io", IO_MODES)
@pytest.mark.parametrize("block_format", FORMATS.values(), ids=FORMATS)
def test_every_format(
    tmp_path: Path, block_format: BlockFormat, io: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """raw, decoded whole and by rows, block by block on threads, and numbers in place: as the arrays' own
    functions have them.
    """
    shape = (5, 2 * block_format.block_size)
    content = np.random.default_rng(block_format.id).integers(
        0, 256, (5, 2 * block_format.type_size), np.uint8
    )
    path = one_tensor(tmp_path / "model.gguf", block_format, shape, content.tobytes())
    with gguflow.open(path, io=io) as model, np.errstate(invalid="ignore", over="ignore"):
        tensor = model["t"]
        assert (tensor.shape, tensor.format, tensor.nbytes) == (shape, block_format, content.nbytes)
        assert (len(tensor), model.nbytes) == (5, path.stat().st_size)
        assert np.array_equal(tensor.raw, content)
        assert not tensor.raw.flags.writeable
        expected = gguflow.dequantize(content, block_format).astype(np.float32)
        for rows in (
            None,
            slice(1, 3),
            slice(None, None, -2),
            [3, 0, 3],
            np.array([-1]),
            slice(9, 12),
            [],
            2,
        ):
            chosen = (
                expected
                if rows is None
                else expected[np.asarray(rows, int) if isinstance(rows, list) else rows]
            )
            assert np.array_equal(tensor.dequantize(rows), chosen, equal_nan=True), rows
            assert np.array_equal(
                tensor.dequantize(rows, dtype="float16", threads=2), chosen.astype(np.float16), equal_nan=True
            ), rows
        monkeypatch.setattr("gguflow.runtime.tensor.STEP", block_format.block_size)
        assert np.array_equal(tensor.dequantize([4, 1, 2], threads=2), expected[[4, 1, 2]], equal_nan=True)
        bits = tensor.dequantize(dtype="bfloat16")
        assert np.array_equal(bits.view(np.uint8), _as_bf16(expected))
        out = np.empty((2, shape[1]), np.float32)
        assert tensor.dequantize([4, 1], out=out) is out
        assert np.array_equal(out, expected[[4, 1]], equal_nan=True)
        if block_format.is_quantized:
            with pytest.raises(UsageError, match="packed blocks"):
                tensor.numpy()
            assert np.array_equal(np.asarray(tensor), expected, equal_nan=True)
        else:
            assert tensor.numpy().tobytes() == content.tobytes()
            assert tensor.numpy().shape == shape


def _as_bf16(x: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from gguflow.quantization import encode

    out = np.empty((x.shape[0], 2 * x.shape[1]), np.uint8)
    encode(x.reshape(-1), FORMATS["bf16"], out.reshape(-1))
    return out


def test_a_view_is_the_mapped_file(model_path: Path) -> None:
    """No copy, and the map lives as long as a view of it: after the model is closed too."""
    model = gguflow.open(model_path)
    tensor = model["blk.0.attn_q.weight"]
    first, second = tensor.raw, tensor.raw
    assert first.__array_interface__["data"] == second.__array_interface__["data"]
    expected = first.tobytes()
    model.close()
    model.close()
    assert first.tobytes() == expected
    with pytest.raises(UsageError, match="is closed"):
        _ = tensor.raw


def test_metadata(model_path: Path) -> None:
    with gguflow.open(model_path) as model:
        assert model.metadata["general.architecture"] == "llama"
        assert model.metadata["llama.block_count"] == 2
        tokens = model.metadata["tokenizer.ggml.tokens"]
        assert tokens[0] == "<unk>"
        assert len(tokens) == len(model.metadata["tokenizer.ggml.scores"])
        assert "llama.block_count" in repr(model.metadata)
    assert tokens[1] == "<s>"  # the map stays for it


def test_mapping_protocol(model_path: Path) -> None:
    with gguflow.open(str(model_path)) as model:
        assert len(model) == len(list(model)) == len(dict(model))
        assert "output_norm.weight" in model
        assert "blk" not in model
        assert model.get("nothing") is None
        with pytest.raises(KeyError, match=r"did you mean 'blk\.0\.attn_q\.weight'"):
            model["blk.0.attn_q.weigh"]
        assert (
            repr(model["blk.0.attn_q.weight"]) == "<Tensor blk.0.attn_q.weight [256, 256] Q4_K, 36864 bytes>"
        )
        assert repr(model).endswith(
            f"model.gguf (llama): {len(model)} tensors, {model_path.stat().st_size} bytes>"
        )


@pytest.mark.parametrize("io", IO_MODES)
def test_shards_and_stacks(tmp_path: Path, io: str) -> None:
    """Experts of a stack one by one, from whichever shard they are in."""
    mixture(tmp_path / "checkpoint", "llama", dtype="float32")
    whole = gguflow.convert(tmp_path / "checkpoint", tmp_path / "whole.gguf", type="q8_0").output
    first = gguflow.convert(
        tmp_path / "checkpoint", tmp_path / "cut.gguf", type="q8_0", shards=Split(max_tensors=4)
    ).output
    with gguflow.open(first, io=io) as cut, gguflow.open(whole, io=io) as one:
        assert len(cut.files) > 1
        assert list(cut) == list(one)
        assert all(np.array_equal(cut[name].raw, one[name].raw) for name in one)
        stack = one["blk.0.ffn_down_exps.weight"]
        assert stack.ndim == 3
        assert np.array_equal(stack[-1].raw, stack.raw[-1])
        assert np.array_equal(stack[1][2].dequantize(), stack.dequantize(1)[2])
        assert repr(stack[1]).startswith("<Tensor blk.0.ffn_down_exps.weight[1] ")
        with pytest.raises(IndexError, match="asked for"):
            stack[stack.shape[0]]
    later = cut.files[1]
    with pytest.raises(UsageError, match="name the first"):
        gguflow.open(later)
    Path(later).unlink()
    with pytest.raises(InvalidError, match="C-043"):
        gguflow.open(first)


def test_pickles_as_its_place(model_path: Path, tmp_path: Path) -> None:
    """In a process of its own, and not if the file is another by then."""
    copy = tmp_path / "model.gguf"
    copy.write_bytes(model_path.read_bytes())
    with gguflow.open(copy) as model:
        tensor = model["blk.1.ffn_up.weight"]
        pickled = pickle.dumps((tensor, tensor[3]))
        expected = tensor.dequantize()
    code = (
        "import pickle, sys; a, b = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(a.dequantize().tobytes() + b.dequantize().tobytes())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], input=pickled, capture_output=True, check=True
    ).stdout
    assert found == expected.tobytes() + expected[3].tobytes()
    assert len(pickled) < 1000
    os.utime(copy, ns=(0, 0))
    with pytest.raises(InvalidError, match="R-001"):
        pickle.loads(pickled)


def test_threads_share_a_model(model_path: Path) -> None:
    with gguflow.open(model_path) as model, ThreadPoolExecutor(8) as pool:
        alone = [tensor.dequantize() for tensor in model.values()]
        together = pool.map(lambda tensor: tensor.dequantize(threads=2), [*model.values()] * 4)
        assert all(np.array_equal(a, b) for a, b in zip(alone * 4, together, strict=True))


@pytest.mark.parametrize("io", IO_MODES)
def test_verify(model_path: Path, tmp_path: Path, io: str) -> None:
    gguflow.open(model_path, verify=True, io=io).close()
    damaged = tmp_path / "damaged.gguf"
    content = bytearray(model_path.read_bytes())
    content[-1000] ^= 1
    damaged.write_bytes(content)
    gguflow.open(damaged, io=io).close()
    with pytest.raises(InvalidError, match="I-006"):
        gguflow.open(damaged, verify=True, io=io)
    bare = gguflow.convert(TINY, tmp_path / "bare.gguf", type="q8_0", integrity=False).output
    with pytest.raises(UsageError, match="no digests"):
        gguflow.open(bare, verify=True, io=io)


@pytest.mark.parametrize("io", IO_MODES)
def test_a_file_that_shrinks_is_reported(model_path: Path, tmp_path: Path, io: str) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes(model_path.read_bytes())
    with gguflow.open(copy, io=io) as model:
        *_, last = model.values()
        with open(copy, "r+b") as file:
            file.truncate(last.offset + 8)
        for touched in (lambda: last.raw, last.dequantize):
            with pytest.raises(InvalidError, match="R-002"):
                touched()


def test_products(model_path: Path) -> None:
    """Of a tensor, of its raw rows, of a stack's part: those of the decoded matrix."""
    x = np.random.default_rng(0).standard_normal((2, 3, 256), np.float32)
    with gguflow.open(model_path) as model:
        tensor = model["blk.0.ffn_up.weight"]
        expected = x @ tensor.dequantize().T
        for found in (
            tensor.matmul(x),
            gguflow.matmul(tensor, x, threads=2),
            gguflow.matmul(tensor.raw, x, format="q4_k"),
        ):
            assert np.allclose(found, expected, atol=1e-4)
        with pytest.raises(UsageError, match="need their format"):
            gguflow.matmul(tensor.raw, x)
        with pytest.raises(ShapeError, match="needs a matrix"):
            tensor[0].matmul(x)


def test_an_empty_tensor_of_a_huge_shape(tmp_path: Path) -> None:
    """Valid, and as floats more than NumPy can make."""
    path = one_tensor(tmp_path / "model.gguf", FORMATS["q8_0"], (0, 1 << 62), b"")
    with gguflow.open(path) as model:
        for touched in (model["t"].dequantize, model["t"].numpy):
            with pytest.raises(ShapeError, match=r"more than an array can be|cannot have the shape"):
                touched()


def test_unknown_types_are_listed_and_refused(tmp_path: Path) -> None:
    infos = [
        TensorInfo("known", (4,), FORMATS["f32"].id, 0),
        TensorInfo("new", (64,), 4000, 32),
        TensorInfo("later", (2,), FORMATS["f32"].id, 64),
    ]
    path = tmp_path / "model.gguf"
    numbers = np.arange(24, dtype="<f4")
    path.write_bytes(build({"general.architecture": string("gguflow-test")}, infos) + numbers.tobytes())
    with gguflow.open(path) as model:
        assert model["new"].format is None
        assert repr(model["new"]) == "<Tensor new [64] unknown type 4000>"
        assert model["later"].dequantize().tolist() == [16, 17]
        for touched in (
            model["new"].dequantize,
            model["new"].numpy,
            lambda: model["new"].raw,
            lambda: model["new"].nbytes,
        ):
            with pytest.raises(UnsupportedError, match="C-016"):
                touched()
        model.prefetch()
        model.release()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["id"]) for case in MANIFEST if case["file"].endswith(".gguf")]
)
def test_corpus(case: dict[str, Any]) -> None:
    """What is not valid at the first level does not open: its first broken rule is why. All else opens, and
    gives typed errors at most.
    """
    path = FILES / case["file"]
    errors = [
        finding.rule
        for finding in gguflow.validate(path)
        if finding.severity == "error" and finding.rule != "C-016"
    ]
    shard = ShardName.of(path)
    is_later_shard = not errors and shard is not None and shard.number > 0
    if errors or is_later_shard:
        with pytest.raises(GguflowError, match=errors[0] if errors else "name the first"):
            gguflow.open(path)
        return
    with gguflow.open(path) as model:
        for tensor in model.values():
            touch(tensor)


BAD_CALLS = [
    pytest.param(lambda t: t.dequantize(dtype="float64"), UsageError, "float64", id="dtype"),
    pytest.param(lambda t: t.dequantize(rows=[[1]]), ShapeError, "rows", id="two-dimensional rows"),
    pytest.param(lambda t: t.dequantize(rows=[0.5]), ShapeError, "rows", id="fractional rows"),
    pytest.param(lambda t: t.dequantize(rows=[256]), IndexError, "asked for 256", id="row past the end"),
    pytest.param(lambda t: t[0].dequantize(rows=0), ShapeError, "no rows", id="rows of a row"),
    pytest.param(lambda t: t[0][0], ShapeError, "axis before the last", id="a weight as a tensor"),
    pytest.param(
        lambda t: t.dequantize(out=np.empty((256, 256))), ShapeError, "out must be", id="out of another dtype"
    ),
    pytest.param(lambda t: t.dequantize(threads=0), UsageError, "threads", id="no threads"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_calls(model_path: Path, call: Any, error: type[Exception], message: str) -> None:
    with gguflow.open(model_path) as model, pytest.raises(error, match=message):
        call(model["blk.0.attn_q.weight"])


def test_what_cannot_be_opened(tmp_path: Path, model_path: Path) -> None:
    with pytest.raises(UsageError, match="mmap or pread"):
        gguflow.open(model_path, io="read")
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(StorageError):
            gguflow.open(path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(GguflowError, match="C-001"):
        gguflow.open(tmp_path / "empty.gguf")


def test_opening_loads_no_kernels_and_few_pages(tmp_path: Path) -> None:
    """A vocabulary of 150,000 tokens with 280,000 merges: nothing of it is decoded, and little memory is
    needed.
    """
    path = tmp_path / "model.gguf"
    strings = {
        "tokens": [f"token{i}" for i in range(150_000)],
        "merges": [f"to ken{i}" for i in range(280_000)],
    }
    metadata = {"general.architecture": string("gguflow-test")}
    metadata |= {f"gguflow-test.{name}": array(ValueType.STRING, values) for name, values in strings.items()}
    path.write_bytes(build(metadata, [TensorInfo("t", (4,), 0, 0)]) + bytes(32))
    code = (
        "import sys, gguflow\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "gguflow.open(sys.argv[2]).close()\n"
        "before = resident()\n"
        "model = gguflow.open(sys.argv[1])\n"
        "grown = resident() - before\n"
        "assert 'numba' not in sys.modules\n"
        "assert model.metadata['gguflow-test.merges'][279_999] == 'to ken279999'\n"
        "print(grown)"
    )
    small = one_tensor(tmp_path / "small.gguf", FORMATS["f32"], (4,), bytes(16))
    grown = int(
        subprocess.run(
            [sys.executable, "-c", code, str(path), str(small)], capture_output=True, check=True, text=True
        ).stdout
    )
    assert grown < 20 << 20


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files as Linux tells them")
@pytest.mark.parametrize("io", IO_MODES)
def test_a_model_that_nobody_closes(model_path: Path, tmp_path: Path, io: str) -> None:
    """Its file, of which one descriptor is open, is closed with the last that refers to it."""
    copy = tmp_path / "model.gguf"
    copy.write_bytes(model_path.read_bytes())

    def n_open() -> int:
        names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return sum(os.readlink(name) == str(copy) for name in names if os.path.islink(name))

    tensor = gguflow.open(copy, io=io)["output_norm.weight"]
    assert n_open() == 1
    del tensor
    gc.collect()
    assert n_open() == 0


@pytest.mark.parametrize("io", IO_MODES)
def test_the_former_name_of_io(model_path: Path, io: str) -> None:
    """It works, and the warning names the caller's own line."""
    with pytest.warns(DeprecationWarning, match="mode is called io now") as caught:
        model = gguflow.open(model_path, mode=io)
    with model:
        assert model.place[1] == io
        assert model["output_norm.weight"].raw.size
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DeprecationWarning, match="io now"), pytest.raises(UsageError, match="mmap or pread"):
        gguflow.open(model_path, mode="read")


def test_io_under_both_names(model_path: Path) -> None:
    for io, mode in (("mmap", "pread"), ("pread", "pread"), ("pread", "mmap")):
        with pytest.raises(UsageError, match="cannot both be given"):
            gguflow.open(model_path, io=io, mode=mode)
