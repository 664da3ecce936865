"""Importance matrices: both formats, every way in which they can lie, and what importance does to a
conversion.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gguflow
from gguflow import conversion
from gguflow.blocks import by_id
from gguflow.cli import main
from gguflow.cli.inspect import inspect_file
from gguflow.container.header import TensorInfo, align
from gguflow.container.metadata import Metadata, Value, ValueType, array, string, u32, u64
from gguflow.container.writer import build
from gguflow.conversion import imatrix
from gguflow.errors import FileError, InvalidError, MalformedError, UsageError
from gguflow.quantization import dequantize, quantize
from gguflow.recipes import Options
from testing.checkpoints import llama_tensors, tiny_llama, write_safetensors

f32 = np.float32
Arrays = dict[str, NDArray[Any]]

KEYS: Metadata = {
    "general.type": string("imatrix"),
    "imatrix.datasets": array(ValueType.STRING, ["wiki.txt", "more.txt"]),
    "imatrix.chunk_count": u32(3),
    "imatrix.chunk_size": u32(512),
}


def gguf(path: Path, tensors: Arrays, keys: Metadata = KEYS) -> Path:
    """A GGUF file of F32 (and F16) tensors under their own names."""
    infos, data = [], b""
    for name, tensor in tensors.items():
        infos.append(TensorInfo(name, tensor.shape[::-1], 0 if tensor.dtype == f32 else 1, len(data)))
        data += tensor.tobytes().ljust(align(tensor.nbytes, 32), b"\0")
    path.write_bytes(build(keys, infos) + data)
    return path


def entry(name: str, sums: NDArray[np.float32], counts: list[float]) -> Arrays:
    return {f"{name}.in_sum2": sums, f"{name}.counts": np.array(counts, f32).reshape(-1, 1)}


def dat(entries: list[tuple[bytes, int, list[float]]], end: bytes = b"") -> bytes:
    """A .dat file: (name, calls, values) each."""
    parts = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        parts.append(
            struct.pack("<i", len(name))
            + name
            + struct.pack(f"<ii{len(values)}f", calls, len(values), *values)
        )
    return b"".join(parts) + end


def test_gguf(tmp_path: Path) -> None:
    """Averages over rounded counts, expert by expert; what an expert never saw counts the same."""
    sums = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]], f32)
    path = gguf(
        tmp_path / "m.gguf",
        {**entry("a.weight", sums, [3.5, 2.49, 0.0]), **entry("b.weight", sums[:1], [3.0])},
    )
    found = imatrix.read(path)
    assert (set(found.entries), found.datasets, found.n_chunks) == (
        {"a.weight", "b.weight"},
        ("wiki.txt", "more.txt"),
        3,
    )
    experts = found.find("a.weight", (3, 10, 4))
    assert experts is not None
    assert np.array_equal(experts.of_matrix(0, 4), sums[0] / f32(4))
    assert np.array_equal(experts.of_matrix(1, 4), sums[1] / f32(2))
    assert np.array_equal(experts.of_matrix(2, 4), np.ones(4, f32))
    assert experts.of_matrix(2, 4).dtype == f32
    single = found.find("b.weight", (10, 4))
    assert single is not None
    assert np.array_equal(single.of_matrix(0, 4), sums[0] / f32(3))
    assert found.find("c.weight", (10, 4)) is None


def test_one_count_for_all_experts(tmp_path: Path) -> None:
    sums = np.arange(8, dtype=f32).reshape(2, 4)
    found = imatrix.read(gguf(tmp_path / "m.gguf", entry("a.weight", sums, [2.0]))).entries["a.weight"]
    assert np.array_equal(found.of_matrix(1, 4), sums[1] / f32(2))


@pytest.mark.parametrize(
    ("end", "n_chunks", "datasets"),
    [
        (b"", 0, ()),
        (struct.pack("<i", 7), 7, ()),
        (struct.pack("<ii", 7, 0), 7, ()),
        (struct.pack("<ii", 7, 3) + b"abc", 7, ("abc",)),
    ],
    ids=["the oldest", "chunks", "an empty name", "dataset"],
)
def test_dat(tmp_path: Path, end: bytes, n_chunks: int, datasets: tuple[str, ...]) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(dat([(b"a.weight", 3, [1, 2, 4]), (b"odd", 0, [5])], end))
    found = imatrix.read(path)
    assert (found.n_chunks, found.datasets) == (n_chunks, datasets)
    assert np.array_equal(found.entries["a.weight"].of_matrix(0, 3), np.array([1, 2, 4], f32) / f32(3))
    assert np.array_equal(found.entries["odd"].of_matrix(0, 1), np.array([5], f32))


GOOD = dat([(b"a", 1, [1.0, 2.0]), (b"b", 1, [3.0])])
BROKEN_DAT: dict[str, tuple[str, bytes]] = {
    "one byte": ("A-001", b"\x01"),
    "no entry": ("A-002", struct.pack("<i", 0)),
    "a negative number of entries": ("A-002", struct.pack("<i", -1)),
    "more entries than there are": ("A-001", struct.pack("<i", 3) + GOOD[4:]),
    "a negative length of a name": ("A-002", struct.pack("<ii", 1, -5)),
    "a name of two gigabytes": ("A-001", struct.pack("<ii", 1, 2**31 - 1) + b"a"),
    "no values": ("A-002", dat([(b"a", 1, [])])),
    "a negative number of values": ("A-002", struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, -1)),
    "eight gigabytes of values": (
        "A-001",
        struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 2**31 - 1),
    ),
    "a name that is not text": ("A-003", dat([(b"\xff", 1, [1.0])])),
    "a name twice": ("A-004", dat([(b"a", 1, [1.0]), (b"a", 1, [1.0])])),
    "a dataset's name cut short": ("A-001", GOOD + struct.pack("<ii", 1, 4) + b"abc"),
    "bytes behind the end": ("A-005", GOOD + struct.pack("<ii", 1, 0) + b"x"),
    "NaN": ("A-006", dat([(b"a", 1, [1.0, float("nan")])])),
    "infinity": ("A-006", dat([(b"a", 1, [float("inf")])])),
    "a negative value": ("A-006", dat([(b"a", 1, [-1.0])])),
    "a safetensors file": ("A-001", struct.pack("<q", 60) + b'{"a": 1}'),
    "nothing": ("C-001", b""),
}


@pytest.mark.parametrize(("rule", "content"), BROKEN_DAT.values(), ids=BROKEN_DAT)
def test_broken_dat(tmp_path: Path, rule: str, content: bytes) -> None:
    (tmp_path / "m.dat").write_bytes(content)
    with pytest.raises(FileError) as caught:
        imatrix.read(tmp_path / "m.dat")
    assert caught.value.finding.rule == rule


NO_IMATRIX: dict[str, tuple[bytes, str]] = {
    "a web page": (b"<!DOCTYPE html><html>", "this is a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "an archive": (b"PK\x03\x04" + b"a" * 60, "a ZIP archive"),
    "JSON": (b'{"a": 1}', "this is JSON"),
    "safetensors": (struct.pack("<q", 60) + b'{"a": 1}', "a safetensors file"),
    "text": (b"blk.0.attn_q.weight 1.0", "no imatrix at all"),
}


@pytest.mark.parametrize(("content", "what"), NO_IMATRIX.values(), ids=NO_IMATRIX)
def test_another_file_is_named_for_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "m.dat").write_bytes(content)
    with pytest.raises(MalformedError, match=what):
        imatrix.read(tmp_path / "m.dat")


def test_a_cut_file_is_not_taken_for_another(tmp_path: Path) -> None:
    """Of 123 entries: its first byte is a brace."""
    (tmp_path / "m.dat").write_bytes(struct.pack("<i", 123) + GOOD[4:])
    with pytest.raises(MalformedError, match=r"truncated: [^;]*$"):
        imatrix.read(tmp_path / "m.dat")


def test_dat_cut_anywhere(tmp_path: Path) -> None:
    """Whatever is missing is noticed; only the dataset and the chunks may be."""
    whole = GOOD + struct.pack("<ii", 7, 3) + b"abc"
    for n in set(range(1, len(whole))) - {len(GOOD), len(GOOD) + 4}:
        (tmp_path / "m.dat").write_bytes(whole[:n])
        with pytest.raises(MalformedError, match="A-001"):
            imatrix.read(tmp_path / "m.dat")


ONES = np.ones((1, 4), f32)
BROKEN_GGUF: dict[str, tuple[str, Arrays, dict[str, Value | None]]] = {
    "no entry": ("A-007", {"other": ONES}, {}),
    "no datasets": ("A-008", entry("a", ONES, [1.0]), {"imatrix.datasets": None}),
    "datasets as numbers": (
        "A-008",
        entry("a", ONES, [1.0]),
        {"imatrix.datasets": array(ValueType.UINT32, [1])},
    ),
    "no chunks": ("A-008", entry("a", ONES, [1.0]), {"imatrix.chunk_count": None}),
    "chunks as u64": ("A-008", entry("a", ONES, [1.0]), {"imatrix.chunk_count": u64(1)}),
    "no size of chunks": ("A-008", entry("a", ONES, [1.0]), {"imatrix.chunk_size": None}),
    "sums without counts": ("A-009", {"a.in_sum2": ONES}, {}),
    "counts without sums": ("A-009", {"a.counts": ONES}, {}),
    "sums in F16": ("A-009", {"a.in_sum2": ONES.astype(np.float16), "a.counts": ONES}, {}),
    "counts that do not divide": ("A-010", entry("a", ONES, [1.0, 1.0, 1.0]), {}),
    "no counts": ("A-010", {"a.in_sum2": ONES, "a.counts": np.ones((0, 1), f32)}, {}),
    "no sums": ("A-010", {"a.in_sum2": np.ones((0, 4), f32), "a.counts": np.ones((1, 1), f32)}, {}),
    "NaN": ("A-006", entry("a", ONES * f32("nan"), [1.0]), {}),
    "negative sums": ("A-006", entry("a", -ONES, [1.0]), {}),
    "negative counts": ("A-006", entry("a", ONES, [-1.0]), {}),
    "infinite counts": ("A-006", entry("a", ONES, [float("inf")]), {}),
}


@pytest.mark.parametrize(("rule", "tensors", "keys"), BROKEN_GGUF.values(), ids=BROKEN_GGUF)
def test_broken_gguf(tmp_path: Path, rule: str, tensors: Arrays, keys: dict[str, Value | None]) -> None:
    changed = {key: value for key, value in (KEYS | keys).items() if value is not None}
    with pytest.raises(InvalidError) as caught:
        imatrix.read(gguf(tmp_path / "m.gguf", tensors, changed))
    assert caught.value.finding.rule == rule


def test_truncated_gguf(tmp_path: Path) -> None:
    path = gguf(tmp_path / "m.gguf", entry("a", ONES, [1.0]))
    whole = path.read_bytes()
    for n in (8, 40, len(whole) // 2, len(whole) - 32):
        path.write_bytes(whole[:n])
        with pytest.raises(FileError, match="C-0"):
            imatrix.read(path)


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_mutations_give_an_answer_or_a_rule(tmp_path: Path, suffix: str) -> None:
    """Bytes changed at random: never another exception, and what is accepted can be used."""
    path = gguf(tmp_path / "m", {**entry("a.weight", ONES, [1.0]), **entry("b.weight", ONES, [2.0])})
    whole = path.read_bytes() if suffix == "gguf" else GOOD + struct.pack("<ii", 7, 3) + b"abc"
    rng = np.random.default_rng(5)
    n_refused = 0
    for _ in range(600):
        mutated = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            mutated[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, mutated[at] ^ 1])
        path.write_bytes(mutated)
        try:
            found = imatrix.read(path)
        except FileError:
            n_refused += 1
            continue
        for importance in found.entries.values():
            assert np.isfinite(importance.of_matrix(0, importance.sums.size)).all()
        found.provenance()
    assert 100 < n_refused < 600


def test_another_model_s(tmp_path: Path) -> None:
    found = imatrix.read(
        gguf(
            tmp_path / "m.gguf", {**entry("a.weight", ONES, [1.0]), **entry("token_embd.weight", ONES, [1.0])}
        )
    )
    for shape in ((10, 5), (2, 10, 4)):
        with pytest.raises(
            InvalidError, match=r"A-014: the entry for a.weight is for a tensor of another size"
        ):
            found.find("a.weight", shape)
    assert found.find("token_embd.weight", (10, 5)) is None
    with pytest.raises(InvalidError, match=r"A-015: no entry is for a tensor of this model"):
        found.check_is_for({"x.weight"})


def test_provenance_is_cut_to_127_bytes() -> None:
    """Whole characters only; the same keys as llama-quantize's."""
    entries = {"a": imatrix.Importance(ONES[0], np.ones(1, f32))}
    keys = imatrix.Imatrix("ü" * 100, entries, ("d" * 200, "e"), 5).provenance()
    assert [(key.removeprefix("quantize.imatrix."), value.value) for key, value in keys.items()] == [
        ("file", "ü" * 63),
        ("dataset", "d" * 127),
        ("entries_count", 1),
        ("chunks_count", 5),
    ]
    assert len(imatrix.Imatrix("x", entries, (), 0).provenance()) == 2


def importance_for(shape: tuple[int, ...], seed: int = 1) -> tuple[NDArray[np.float32], list[float]]:
    """Sums of squares for a tensor of this shape, and counts; of several matrices, the first was never
    used.
    """
    n_matrices = shape[0] if len(shape) == 3 else 1
    counts = [float(7 + i) for i in range(n_matrices)]
    if n_matrices > 1:
        counts[0] = 0.0
    sums = np.random.default_rng(seed).exponential(1, (n_matrices, shape[-1])).astype(f32)
    return sums, counts


def expected_blocks(
    x: NDArray[np.float32], kind: str, sums: NDArray[np.float32], counts: list[float]
) -> bytes:
    """Matrix by matrix with the array functions."""
    matrices = x.reshape(-1, *x.shape[-2:])
    rows = [np.ones_like(sums[i]) if count == 0 else sums[i] / f32(count) for i, count in enumerate(counts)]
    return b"".join(
        quantize(matrix, kind, importance=row).tobytes() for matrix, row in zip(matrices, rows, strict=True)
    )


def tensor_bytes(path: Path, name: str) -> tuple[str, bytes]:
    header = inspect_file(path)
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    block_format = by_id(tensor.type_id)
    assert block_format is not None
    start = header.data_offset + tensor.offset
    return block_format.key, path.read_bytes()[start : start + block_format.row_bytes(tensor.n_weights)]


SHAPES: dict[str, tuple[int, ...]] = {
    "rows": (24, 512),
    "experts": (3, 10, 512),
    "rows across leaves": (800, 1536),
    "experts across leaves": (5, 200, 1280),
}


@pytest.mark.parametrize("kind", ["q4_0", "q4_k", "iq4_nl"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_conversion_with_importance(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    """Pieces of any size, in any number of threads, give the bytes of each matrix quantized whole with its
    importance.
    """
    x = np.random.default_rng(0).standard_normal(shape).astype(f32)
    name = "blk.0.ffn_down_exps.weight"
    source = write_safetensors(tmp_path / "x.safetensors", {name: x})
    sums, counts = importance_for(shape)
    path = gguf(tmp_path / "m.gguf", entry(name, sums, counts))
    expected = expected_blocks(x, kind, sums, counts)
    limits = [192 << 20, 12 * 256 * 3] if x.size < 100_000 else [192 << 20]
    for threads, limit in itertools.product((1, 3), limits):
        conversion.convert(
            source,
            tmp_path / "out.gguf",
            type=kind,
            architecture="test",
            imatrix=path,
            options=Options(pure=True),
            threads=threads,
            memory_limit=limit,
            overwrite=True,
        )
        assert tensor_bytes(tmp_path / "out.gguf", name) == (kind, expected)


PAYLOADS: dict[str, tuple[str, str]] = {
    "a searched range": ("rows across leaves", "sb:bits=3,block=32,range=search"),
    "codebooks of rows": ("rows across leaves", "kmeans4_row"),
    "quantiles of rows": ("rows across leaves", "sb:bits=4,per=row,codebook=quantile"),
    "a codebook of the tensor": ("rows across leaves", "sb:bits=3,block=64,codebook=kmeans"),
    "a searched range, experts": ("experts across leaves", "sb:bits=3,block=32,range=search"),
    "codebooks of rows, experts": ("experts across leaves", "kmeans4_row"),
}


@pytest.mark.parametrize(
    ("shape", "kind"), [(SHAPES[shape], kind) for shape, kind in PAYLOADS.values()], ids=PAYLOADS
)
def test_payloads_with_importance(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    """Each matrix is what `quantize` makes of it with its importance, and not what it makes without."""
    x = np.random.default_rng(0).standard_t(3, shape).astype(f32)
    name = "blk.0.ffn_down_exps.weight"
    source = write_safetensors(tmp_path / "x.safetensors", {name: x})
    sums, counts = importance_for(shape)
    path = gguf(tmp_path / "m.gguf", entry(name, sums, counts))
    out = conversion.convert(
        source,
        tmp_path / "out.gguf",
        type=kind,
        architecture="test",
        imatrix=path,
        options=Options(pure=True),
    ).output
    with gguflow.open(out, verify=True) as model:
        found = model[name].dequantize().reshape(-1, *shape[-2:])
    for i, matrix in enumerate(x.reshape(found.shape)):
        importance = sums[i] / f32(counts[i]) if counts[i] else None
        assert np.array_equal(found[i], dequantize(quantize(matrix, kind, importance=importance), kind)), i
        assert not counts[i] or not np.array_equal(found[i], dequantize(quantize(matrix, kind), kind)), i


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "llama", hidden=256, ffn=512)


@pytest.fixture
def llama_imatrix(tmp_path: Path) -> Path:
    """For all matrices of that model but one and the embeddings."""
    entries: Arrays = {}
    for i in range(2):
        for kind in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            if (i, kind) != (1, "ffn_gate"):
                sums, counts = importance_for((1, 512 if kind == "ffn_down" else 256), seed=i)
                entries |= entry(f"blk.{i}.{kind}.weight", sums, counts)
    return gguf(tmp_path / "imatrix.gguf", entries)


def test_a_model_with_importance(
    tmp_path: Path, llama: Path, llama_imatrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded, used, and honest about what it has not."""
    out = tmp_path / "out.gguf"
    assert (
        main(["convert", str(llama), "-o", str(out), "-t", "q4_k_m", "--imatrix", str(llama_imatrix), "-q"])
        == 0
    )
    said = capsys.readouterr().err
    assert (
        "3 tensors without an entry in the importance matrix, quantized without importance: "
        "output.weight, token_embd.weight, blk.1.ffn_gate" in said
    )
    metadata = inspect_file(out).metadata
    assert metadata["quantize.imatrix.entries_count"] == u32(13)
    assert metadata["quantize.imatrix.dataset"] == string("wiki.txt")
    x = llama_tensors({**CONFIG, "hidden_size": 256, "intermediate_size": 512})[
        "model.layers.1.mlp.down_proj.weight"
    ]
    sums, counts = importance_for((1, 512), seed=1)
    assert tensor_bytes(out, "blk.1.ffn_down.weight") == ("q6_k", expected_blocks(x, "q6_k", sums, counts))
    plain = tmp_path / "plain.gguf"
    assert main(["convert", str(llama), "-o", str(plain), "-t", "q4_k_m", "-q"]) == 0
    assert tensor_bytes(plain, "blk.1.ffn_gate.weight") == tensor_bytes(out, "blk.1.ffn_gate.weight")
    assert tensor_bytes(plain, "blk.1.ffn_down.weight") != tensor_bytes(out, "blk.1.ffn_down.weight")


CONFIG = {
    "vocab_size": 4096,
    "head_dim": 64,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}


def test_formats_that_need_importance(
    tmp_path: Path, llama: Path, llama_imatrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(
        UsageError,
        match=r"blk.0.attn_k.weight: IQ2_XS needs an importance matrix \(iq2_xs: base\); "
        r"pass --imatrix",
    ):
        conversion.convert(llama, out, type="iq2_xs")
    with pytest.raises(UsageError, match=r"blk.1.ffn_gate.weight: IQ2_XS .* the imatrix has no entry for it"):
        conversion.convert(llama, out, type="iq2_xs", imatrix=llama_imatrix)
    assert not out.exists()
    assert main(["convert", str(llama), "-t", "iq2_xs", "--dry-run"]) == 0
    assert "need an importance matrix (--imatrix): blk.0.attn_k.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda path: gguf(path, entry("x", ONES, [1.0])), "A-015"),
        (lambda path: gguf(path, entry("blk.0.attn_q.weight", ONES, [1.0])), "A-014"),
    ],
    ids=["other names", "other sizes"],
)
def test_an_imatrix_of_another_model(
    tmp_path: Path, llama: Path, change: Callable[[Path], Path], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = change(tmp_path / "other.gguf")
    assert main(["convert", str(llama), "-o", str(tmp_path / "out.gguf"), "--imatrix", str(path)]) == 3
    assert rule in capsys.readouterr().err
    assert not (tmp_path / "out.gguf").exists()


def test_no_resuming_with_another_imatrix(tmp_path: Path, llama: Path, llama_imatrix: Path) -> None:
    """The header says only where the imatrix was; what was left is bound to its content too."""

    def stop(*done: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out.gguf"
    with pytest.raises(KeyboardInterrupt):
        conversion.convert(llama, out, imatrix=llama_imatrix, threads=1, progress=stop)
    whole = llama_imatrix.read_bytes()
    llama_imatrix.write_bytes(whole[:-32] + struct.pack("<f", 99) + whole[-28:])
    with pytest.raises(UsageError, match="its sources, settings or version were others"):
        conversion.convert(llama, out, imatrix=llama_imatrix)
    llama_imatrix.write_bytes(whole)
    conversion.convert(llama, out, imatrix=llama_imatrix)
    conversion.convert(llama, tmp_path / "afresh.gguf", imatrix=llama_imatrix)
    assert out.read_bytes() == (tmp_path / "afresh.gguf").read_bytes()
