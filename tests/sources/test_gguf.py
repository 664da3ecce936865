"""A GGUF file as a source: the bytes are those of converting its own source directly, everything else in it
stays, and shards are one model.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gguflow import conversion, models, recipes, sources
from gguflow.blocks import FORMATS
from gguflow.cli.inspect import inspect_file
from gguflow.container.header import TensorInfo
from gguflow.container.metadata import Metadata, Value, ValueType, array, i32, string, u32
from gguflow.container.shards import COUNT_KEY, TENSORS_KEY, shard_metadata
from gguflow.container.writer import build
from gguflow.conversion.plan import PlannedTensor
from gguflow.errors import FileError, InvalidError, MalformedError, UsageError
from testing import ggml
from testing.checkpoints import tiny_llama
from testing.gguf_files import tensors_of

REQUANTIZE = recipes.Options(allow_requantize=True)
Contents = dict[str, tuple[str, tuple[int, ...]]]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "checkpoint", hidden=256, ffn=512, dtype="bfloat16")


@pytest.fixture
def bf16(llama: Path, tmp_path: Path) -> Path:
    path = tmp_path / "Tiny-BF16.gguf"
    conversion.convert(llama, path, type="bf16")
    return path


def write(path: Path, metadata: Metadata, contents: Contents, seed: int = 0) -> Path:
    """A GGUF file of the given formats and shapes, with random bytes."""
    infos, data = [], b""
    rng = np.random.default_rng(seed)
    for name, (kind, shape) in contents.items():
        nbytes = int(np.prod(shape[:-1])) * FORMATS[kind].row_bytes(shape[-1])
        infos.append(TensorInfo(name, shape[::-1], FORMATS[kind].id, len(data)))
        data += rng.integers(0, 60, nbytes, np.uint8).tobytes() + b"\0" * (-nbytes % 32)
    path.write_bytes(build(metadata, infos) + data)
    return path


@pytest.mark.parametrize("kind", ["q4_k_m", "q5_k_s", "q8_0", "iq4_xs", "bf16", "q4_0"])
def test_by_way_of_a_file_or_directly(tmp_path: Path, llama: Path, bf16: Path, kind: str) -> None:
    """The same tensors with the same bytes, the same metadata but for what follows from the file."""
    conversion.convert(bf16, tmp_path / "two.gguf", type=kind)
    conversion.convert(llama, tmp_path / "one.gguf", type=kind)
    assert tensors_of(tmp_path / "two.gguf") == tensors_of(tmp_path / "one.gguf")
    one, two = (dict(inspect_file(tmp_path / name).metadata) for name in ("one.gguf", "two.gguf"))
    for key in (
        "gguflow.integrity.header",
        "gguflow.integrity.length",
        "gguflow.source.files",
        "gguflow.source.digests",
    ):
        del one[key], two[key]
    assert {
        key: (v.type, list(v.value) if v.type is ValueType.ARRAY else v.value) for key, v in two.items()
    } == {key: (v.type, list(v.value) if v.type is ValueType.ARRAY else v.value) for key, v in one.items()}


@pytest.mark.parametrize("kind", [name for name, f in FORMATS.items() if f.is_quantized])
def test_every_quantized_format_can_be_a_source(tmp_path: Path, kind: str) -> None:
    """Decoded as ggml decodes it."""
    rng = np.random.default_rng(3)
    block_format = FORMATS[kind]
    importance = np.ones(512, np.float32) if block_format.importance == "required" else None
    packed = ggml.quantize(rng.standard_normal((6, 512)).astype(np.float32), block_format, importance)
    info = TensorInfo("x.weight", (512, 6), block_format.id, 0)
    source = tmp_path / "source.gguf"
    source.write_bytes(
        build({"general.architecture": string("any")}, [info]) + packed.tobytes() + bytes(-packed.nbytes % 32)
    )
    with pytest.raises(UsageError, match="--allow-requantize"):
        conversion.convert(source, tmp_path / "out.gguf", type="f32")
    conversion.convert(
        source, tmp_path / "out.gguf", type="f32", options=REQUANTIZE, threads=1, memory_limit=12 * 256
    )
    assert tensors_of(tmp_path / "out.gguf")["x.weight"][2] == ggml.dequantize(packed, block_format).tobytes()


def test_requantizing_is_decoding_and_encoding(tmp_path: Path, bf16: Path) -> None:
    conversion.convert(bf16, tmp_path / "q8_0.gguf", type="q8_0")
    conversion.convert(tmp_path / "q8_0.gguf", tmp_path / "q4_0.gguf", type="q4_0", options=REQUANTIZE)
    before, after = tensors_of(tmp_path / "q8_0.gguf"), tensors_of(tmp_path / "q4_0.gguf")
    for name, (kind, shape, content) in before.items():
        expected = content
        if kind == "q8_0" and after[name][0] == "q4_0":
            weights = ggml.dequantize(np.frombuffer(content, np.uint8).reshape(shape[0], -1), FORMATS["q8_0"])
            expected = ggml.quantize(weights, FORMATS["q4_0"]).tobytes()
        assert after[name][2] == expected or after[name][0] == "q6_k", name


def test_all_that_is_not_known_stays(tmp_path: Path) -> None:
    """Another program's architecture, keys of every type, integers, text that is not UTF-8; only what
    describes the file is made anew.
    """
    metadata: Metadata = {
        "general.architecture": string("of-tomorrow"),
        "of-tomorrow.block_count": u32(2),
        "of-tomorrow.attention.head_count": array(ValueType.INT32, [8, 4]),
        "of-tomorrow.attention.head_count_kv": array(ValueType.INT32, [2, 1]),
        "of-tomorrow.expert_count": Value(ValueType.UINT64, 8),
        "general.file_type": u32(32),
        "general.name": string(b"caf\xe9".decode("utf-8", "surrogateescape")),
        "words": array(ValueType.STRING, ["a", "", "\u00e9"]),
        "numbers": array(ValueType.FLOAT64, [1.5, -2.0]),
        "gguflow.recipe": string("f16"),
        "gguflow.future": string("x"),
        "flag": Value(ValueType.BOOL, True),
    }
    contents: Contents = {
        "blk.0.ffn_up.weight": ("f16", (4, 256)),
        "steps": ("i64", (7,)),
        "table.weight": ("i8", (3, 32)),
        "double.weight": ("f64", (2, 32)),
        "half_norm.weight": ("f16", (32,)),
    }
    source = write(tmp_path / "source.gguf", metadata, contents)
    model = models.load(sources.open_checkpoint(source))
    assert (model.n_layers, model.n_heads, model.n_kv_heads, model.n_experts) == (2, 8, 2, 8)
    conversion.convert(source, tmp_path / "out.gguf", type="q8_0")
    before, after = tensors_of(source), tensors_of(tmp_path / "out.gguf")
    assert {name: kind for name, (kind, _, _) in after.items()} == {
        **{n: k for n, (k, _) in contents.items()},
        "blk.0.ffn_up.weight": "q8_0",
    }
    assert all(after[name] == before[name] for name in contents if name != "blk.0.ffn_up.weight")
    written = inspect_file(tmp_path / "out.gguf").metadata
    kept = [key for key in metadata if not key.startswith("gguflow.") and key != "general.file_type"]
    assert [written[key].type for key in kept] == [metadata[key].type for key in kept]
    assert all(
        list(written[k].value) == list(metadata[k].value)
        if written[k].element_type
        else written[k] == metadata[k]
        for k in kept
    )
    assert (
        written["general.file_type"] == u32(7)
        and written["gguflow.recipe"] == string("q8_0")
        and "gguflow.future" not in written
    )


def test_copy_keeps_every_format(tmp_path: Path, bf16: Path) -> None:
    conversion.convert(bf16, tmp_path / "mixed.gguf", type="q4_k_m")
    conversion.convert(tmp_path / "mixed.gguf", tmp_path / "copy.gguf", type="copy")
    assert tensors_of(tmp_path / "copy.gguf") == tensors_of(tmp_path / "mixed.gguf")
    assert inspect_file(tmp_path / "copy.gguf").metadata["general.file_type"] == u32(15)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Tiny-BF16.gguf", "Tiny-{type}"),
        ("tiny.Q4_K_M.gguf", "tiny-{type}"),
        ("tiny-iq2_xxs.gguf", "tiny-{type}"),
        ("tiny.gguf", "tiny-{type}"),
        ("Q8_0.gguf", "Q8_0-{type}"),
        ("{type}-F16.gguf", "-type--{type}"),
    ],
)
def test_the_default_name_is_the_sources(tmp_path: Path, name: str, stem: str) -> None:
    source = write(tmp_path / name, {"general.architecture": string("any")}, {})
    assert models.load(sources.open_checkpoint(source)).file_stem == stem


def shards(directory: Path) -> list[Path]:
    """A model of four tensors in three files."""
    contents: list[Contents] = [
        {"a.weight": ("f16", (2, 32))},
        {"b.weight": ("f32", (2, 32)), "c.weight": ("f16", (3, 32))},
        {"d": ("f32", (5,))},
    ]
    paths = []
    for i, part in enumerate(contents):
        metadata = shard_metadata(i, 3, 4)
        if i == 0:
            metadata = {"general.architecture": string("any"), **metadata}
        paths.append(write(directory / f"model-F16-{i + 1:05d}-of-00003.gguf", metadata, part, seed=i))
    return paths


def test_shards_are_one_model(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    conversion.convert(paths[0], tmp_path / "merged.gguf", type="copy")
    expected = {name: tensor for path in paths for name, tensor in tensors_of(path).items()}
    assert tensors_of(tmp_path / "merged.gguf") == expected
    assert not [key for key in inspect_file(tmp_path / "merged.gguf").metadata if key.startswith("split.")]
    assert models.load(sources.open_checkpoint(paths[0])).file_stem == "model-{type}"
    with pytest.raises(UsageError, match="is a source"):
        conversion.convert(paths[0], paths[2], type="copy", overwrite=True)


def rewritten(number: int, change: Metadata, contents: Contents) -> Callable[[list[Path]], None]:
    """Shard `number` (from 0) with other keys and tensors."""

    def apply(paths: list[Path]) -> None:
        first: Metadata = {} if number else {"general.architecture": string("any")}
        write(paths[number], {**first, **shard_metadata(number, 3, 4), **change}, contents)

    return apply


BROKEN_SETS: dict[str, tuple[str, Callable[[list[Path]], object]]] = {
    "first renamed": ("C-042", lambda paths: paths[0].rename(paths[0].with_name("model.gguf"))),
    "one missing": ("C-043", lambda paths: paths[1].unlink()),
    "one of another model": ("C-044", rewritten(1, {COUNT_KEY: Value(ValueType.UINT16, 2)}, {})),
    "two exchanged": (
        "C-044",
        lambda paths: (paths[1].rename(paths[0].with_name("x")), paths[2].rename(paths[1])),
    ),
    "one without keys": ("C-044", lambda paths: write(paths[2], {}, {"d": ("f32", (5,))})),
    "a tensor lacking": ("C-045", rewritten(2, {}, {})),
    "another count of tensors": (
        "C-045",
        rewritten(0, {TENSORS_KEY: i32(5)}, {"a.weight": ("f16", (2, 32))}),
    ),
    "a tensor twice": ("C-046", rewritten(2, {}, {"a.weight": ("f16", (2, 32))})),
    "one cut short": ("C-019", lambda paths: paths[1].write_bytes(paths[1].read_bytes()[:-40])),
}


@pytest.mark.parametrize(("rule", "change"), BROKEN_SETS.values(), ids=BROKEN_SETS)
def test_broken_sets_of_shards(tmp_path: Path, rule: str, change: Callable[[list[Path]], object]) -> None:
    paths = shards(tmp_path)
    change(paths)
    with pytest.raises(InvalidError) as caught:
        sources.open_checkpoint(paths[0] if paths[0].exists() else tmp_path / "model.gguf")
    assert caught.value.finding.rule == rule


def test_another_shard_than_the_first(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    with pytest.raises(UsageError, match=r"shard 2 of 3; name the first: model-F16-00001-of-00003\.gguf"):
        sources.open_checkpoint(paths[1])
    paths[0].unlink()
    with pytest.raises(UsageError, match="name the first"):
        sources.open_checkpoint(paths[2])


BROKEN_FILES: dict[str, tuple[type[FileError], bytes]] = {
    "empty": (MalformedError, b""),
    "no GGUF": (MalformedError, b"PK\x03\x04" + bytes(100)),
    "a header cut short": (MalformedError, struct.pack("<4sIQQ", b"GGUF", 3, 2, 1)),
}


@pytest.mark.parametrize(("error", "content"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_broken_files(tmp_path: Path, error: type[FileError], content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(error):
        conversion.convert(tmp_path / "x.gguf", tmp_path / "out.gguf")


def test_an_architecture_cannot_be_given(tmp_path: Path, bf16: Path) -> None:
    with pytest.raises(UsageError, match="says what the model is"):
        conversion.convert(bf16, tmp_path / "out.gguf", architecture="llama")


def test_a_truncated_source_is_survived_by_pread(tmp_path: Path, bf16: Path) -> None:
    def truncate(*_: object) -> None:
        with bf16.open("r+b") as file:
            file.truncate(100)

    with pytest.raises(InvalidError, match=r"shortened|changed"):
        conversion.convert(bf16, tmp_path / "out.gguf", type="q8_0", io="pread", threads=1, progress=truncate)
    assert not (tmp_path / "out.gguf").exists()


def test_a_damaged_source_is_refused(tmp_path: Path, bf16: Path) -> None:
    """I-015. Also one that only the digests tell apart, and where the damaged leaf was converted by an
    earlier run, which saw it whole.
    """

    def damage() -> None:
        status = bf16.stat()
        content = bytearray(bf16.read_bytes())
        content[-5000] ^= 1
        bf16.write_bytes(content)
        os.utime(bf16, ns=(status.st_atime_ns, status.st_mtime_ns))

    def interrupt(planned: PlannedTensor, n_weights: int, nbytes: int) -> None:
        if planned.name == list(sources.open_checkpoint(bf16).tensors)[-1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.convert(bf16, tmp_path / "resumed.gguf", type="q8_0", threads=1, progress=interrupt)
    damage()
    for name in ("resumed.gguf", "new.gguf"):
        with pytest.raises(InvalidError, match=r"I-006: damaged data") as caught:
            conversion.convert(bf16, tmp_path / name, type="q8_0")
        assert caught.value.file == str(bf16)
        assert not list(tmp_path.glob(f"*{name}*"))


def test_a_source_that_another_tool_rewrote_proves_nothing(tmp_path: Path, bf16: Path) -> None:
    """Its set is of another header: it is neither trusted nor held against the data."""
    content = bf16.read_bytes()
    bf16.write_bytes(content.replace(b"general.name", b"general.nome"))
    assert all(tensor.proof is None for tensor in sources.open_checkpoint(bf16).tensors.values())
    conversion.convert(bf16, tmp_path / "new.gguf", type="q8_0")
