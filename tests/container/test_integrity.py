"""Files that prove themselves: any bit that flips is found, what other tools rewrite is told apart from it,
and the spec's example is true.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguflow import conversion
from gguflow.blocks import block_sizes
from gguflow.container import integrity, verification
from gguflow.container.header import TensorInfo
from gguflow.container.integrity import (
    HEADER_KEY,
    KEY_SET,
    LEAF_WEIGHTS,
    LENGTH_KEY,
    SHARDS_KEY,
    SOURCE_DIGESTS_KEY,
    TENSORS_KEY,
    VERSION_KEY,
)
from gguflow.container.metadata import Metadata, Value, ValueType, array, string, u32, u64
from gguflow.container.reader import read_header
from gguflow.container.writer import build
from gguflow.validation import examine
from testing.checkpoints import write_safetensors

SPEC = Path(__file__).resolve().parents[2] / "spec" / "integrity.md"


def errors(path: Path, level: str = "values") -> list[str]:
    """The rules that a file breaks, and those of its digests also where that is only a warning."""
    found = examine(path, level)[1]
    return [f.rule for f in found if f.severity == "error" or f.rule.startswith("I-")]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of 1.5 KB as convert writes it: three tensors, one of them padded."""
    directory = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.standard_normal((4, 256)),
        "b.weight": rng.standard_normal((2, 32)),
        "c": np.ones(3),
    }
    source = write_safetensors(
        directory / "x.safetensors", {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    )
    conversion.convert(source, directory / "out.gguf", type="q4_k", architecture="any")
    return (directory / "out.gguf").read_bytes()


@pytest.fixture
def path(tmp_path: Path, small: bytes) -> Path:
    """The same, on disk, to be spoilt."""
    written = tmp_path / "model.gguf"
    written.write_bytes(small)
    return written


def test_any_bit_that_flips_is_found(path: Path, small: bytes) -> None:
    """Each byte before the data in one bit, and 1,000 bits anywhere."""
    assert errors(path) == []
    data_offset = read_header(path, block_sizes).data_offset
    rng = np.random.default_rng(1)
    bits = [8 * i + int(rng.integers(8)) for i in range(data_offset)] + [
        int(bit) for bit in rng.integers(8 * len(small), size=1000)
    ]
    unnoticed = []
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            content = small[bit // 8]
            file.seek(bit // 8)
            file.write(bytes([content ^ 1 << bit % 8]))
            if not errors(path):
                unnoticed.append(bit)
            file.seek(bit // 8)
            file.write(bytes([content]))
    assert unnoticed == []
    assert path.read_bytes() == small


def test_damaged_data_is_named(path: Path, small: bytes) -> None:
    header = read_header(path, block_sizes)
    for i, tensor in enumerate(header.tensors):
        spoilt = bytearray(small)
        spoilt[header.data_offset + tensor.offset] ^= 1
        path.write_bytes(spoilt)
        assert errors(path, "structure") == [], "no data is read"
        found = [finding for finding in examine(path, "values")[1] if finding.rule == "I-006"]
        assert [finding.path for finding in found] == [f"$.tensors[{i}].data"]
        assert f"tensor {tensor.name!r}" in found[0].message and "damaged data" in found[0].message


def test_padding_is_covered(path: Path, small: bytes) -> None:
    spoilt = bytearray(small)
    spoilt[-1] = 1
    path.write_bytes(spoilt)
    assert errors(path) == ["I-006"]
    path.write_bytes(small[:-1])
    assert errors(path, "structure") == ["I-004"], "the last padding may be missing in other files"


@pytest.mark.parametrize("kind", ["q4_k", "q8_0", "f32"])
def test_leaves_of_a_large_tensor(tmp_path: Path, kind: str) -> None:
    """What the conversion digests, leaf by leaf and on threads, is what the verification looks at."""
    x = np.random.default_rng(0).standard_normal((2 * LEAF_WEIGHTS // 768 + 5, 768)).astype(np.float32)
    source = write_safetensors(
        tmp_path / "x.safetensors",
        {"x.weight": x, "empty": np.empty(0, np.float32), "y": np.ones(7, np.float32)},
    )
    conversion.convert(source, tmp_path / "out.gguf", type=kind, architecture="any", threads=2)
    assert errors(tmp_path / "out.gguf") == []
    header = read_header(tmp_path / "out.gguf", block_sizes)
    index = next(i for i, tensor in enumerate(header.tensors) if tensor.name == "x.weight")
    leaves = list(
        integrity.leaf_ranges(
            header, header.tensors[index], block_sizes(header.tensors[index].type_id) or (1, 1)
        )
    )
    assert len(leaves) == 3
    with (tmp_path / "out.gguf").open("r+b") as file:
        for first, last in leaves:
            for position in (first, last - 1):
                file.seek(position)
                byte = file.read(1)
                file.seek(position)
                file.write(bytes([byte[0] ^ 4]))
                file.flush()
                assert "I-006" in errors(tmp_path / "out.gguf")
                file.seek(position)
                file.write(byte)
                file.flush()
    assert errors(tmp_path / "out.gguf") == []


def changed(small: bytes, path: Path, keys: dict[str, Value | None]) -> bytes:
    """The file with other metadata, its header built anew and its set left as it was."""
    path.write_bytes(small)
    header = read_header(path, block_sizes)
    metadata: Metadata = {**header.metadata, **{key: value for key, value in keys.items() if value}}
    kept = {key: value for key, value in metadata.items() if keys.get(key, value) is not None}
    return build(kept, header.tensors, header.alignment) + small[header.data_offset :]


DIGEST = "0123456789abcdef" * 2
SETS: dict[str, tuple[dict[str, Value | None], str]] = {
    **{f"without {key}": ({key: None}, "I-001") for key in KEY_SET},
    "only one key": (dict.fromkeys(KEY_SET[1:]), "I-001"),
    "only the key of shards": ({**dict.fromkeys(KEY_SET), SHARDS_KEY: string(DIGEST)}, "I-001"),
    "another version": ({VERSION_KEY: u32(2)}, "I-002"),
    "another version that needs other keys": ({VERSION_KEY: u32(2), TENSORS_KEY: None}, "I-002"),
    "a version of another type": ({VERSION_KEY: u64(1)}, "I-003"),
    "a length of another type": ({LENGTH_KEY: u32(1504)}, "I-003"),
    "digests of another type": ({TENSORS_KEY: array(ValueType.INT64, [0] * 6)}, "I-003"),
    "digests that are no array": ({TENSORS_KEY: string("")}, "I-003"),
    "a header digest in capitals": ({HEADER_KEY: string("A" * 32)}, "I-003"),
    "a header digest that is too long": ({HEADER_KEY: string("0" * 33)}, "I-003"),
    "a source without a digest": ({SOURCE_DIGESTS_KEY: array(ValueType.STRING, [])}, "I-003"),
    "a source's digest that is none": ({SOURCE_DIGESTS_KEY: array(ValueType.STRING, [""])}, "I-003"),
    "a shard id that is no digest": ({SHARDS_KEY: string("1")}, "I-003"),
    "another length": ({LENGTH_KEY: u64(1505)}, "I-004"),
    "digests of fewer tensors": ({TENSORS_KEY: array(ValueType.UINT64, [0] * 4)}, "I-004"),
    "half a digest": ({TENSORS_KEY: array(ValueType.UINT64, [0] * 5)}, "I-004"),
    "another value": ({"general.name": string("y")}, "I-005"),
    "another header digest": ({HEADER_KEY: string(DIGEST)}, "I-005"),
    "a shard without the id of its set": ({"split.count": Value(ValueType.UINT16, 2)}, "I-007"),
}


@pytest.mark.parametrize(("keys", "rule"), SETS.values(), ids=SETS)
def test_sets_that_are_not_of_their_file(
    path: Path, small: bytes, keys: dict[str, Value | None], rule: str
) -> None:
    """I-010: each way is told, and apart from damaged data."""
    path.write_bytes(changed(small, path, keys))
    found = [finding for finding in examine(path, "structure")[1] if finding.rule.startswith("I-")]
    assert rule in {finding.rule for finding in found}
    if rule != "I-007":  # that file breaks the rules of shards too
        assert examine(path)[0] == ("unsupported" if rule == "I-002" else "valid")
    assert all(finding.severity == ("error" if rule == "I-002" else "warning") for finding in found)
    if rule in ("I-001", "I-004", "I-005", "I-007"):
        assert all("rewritten by another tool, or damaged" in finding.message for finding in found)
    assert "I-006" not in errors(path, "values"), "digests that are not of this file prove nothing"


def test_a_file_without_a_set_claims_nothing(path: Path, small: bytes) -> None:
    """I-014."""
    without = changed(small, path, dict.fromkeys(KEY_SET))
    path.write_bytes(without)
    assert errors(path) == []
    path.write_bytes(without[:-1] + b"\1")
    assert errors(path) == []


def rewritten(source: Path, target: Path) -> None:
    """As tools on gguf-py do it: every key copied, the weights in another format."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "any")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            writer.add_key_value(
                field.name, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def set_in_place(path: Path) -> None:
    """As gguf_set_metadata does it: a value overwritten where it stands."""
    field = gguf.GGUFReader(path, "r+").get_field("general.file_type")
    field.parts[field.data[0]][0] = 7


def test_what_other_tools_do(path: Path, tmp_path: Path) -> None:
    rewritten(path, tmp_path / "copy.gguf")
    set_in_place(path)
    for file, rules in ((tmp_path / "copy.gguf", {"I-004", "I-005"}), (path, {"I-005"})):
        for level in ("structure", "values"):
            found = [finding for finding in examine(file, level)[1] if finding.rule.startswith("I-")]
            assert {finding.rule for finding in found} == rules
            assert all(
                finding.message.startswith("rewritten by another tool, or damaged") for finding in found
            )


def test_sources_and_recipe_are_named(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": np.ones((2, 64), np.float32)})
    conversion.convert(source, tmp_path / "out.gguf", type="q8_0", architecture="any")
    metadata = read_header(tmp_path / "out.gguf", block_sizes).metadata
    content = source.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    assert list(metadata["gguflow.source.files"].value) == ["x.safetensors"]
    assert list(metadata["gguflow.source.digests"].value) == [integrity.hexdigest(content[: 8 + length])]
    assert metadata["gguflow.recipe"].value == "q8_0"
    conversion.convert(
        source, tmp_path / "out.gguf", type="q8_0", architecture="any", integrity=False, overwrite=True
    )
    assert not [
        key for key in read_header(tmp_path / "out.gguf", block_sizes).metadata if key.startswith("gguflow.")
    ]


def test_a_source_has_no_say_in_the_set(tmp_path: Path) -> None:
    """I-011: what is made of a file with a set has its own, or none."""
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": np.ones((2, 64), np.float32)})
    conversion.convert(source, tmp_path / "one.gguf", type="f32", architecture="any")
    conversion.convert(tmp_path / "one.gguf", tmp_path / "two.gguf", type="q8_0")
    assert errors(tmp_path / "two.gguf") == []
    metadata = read_header(tmp_path / "two.gguf", block_sizes).metadata
    one = (tmp_path / "one.gguf").read_bytes()
    head = one[: read_header(tmp_path / "one.gguf", block_sizes).data_offset]
    assert list(metadata["gguflow.source.files"].value) == ["one.gguf"]
    assert list(metadata["gguflow.source.digests"].value) == [integrity.hexdigest(head)]
    conversion.convert(tmp_path / "one.gguf", tmp_path / "three.gguf", type="q8_0", integrity=False)
    assert not [
        key
        for key in read_header(tmp_path / "three.gguf", block_sizes).metadata
        if key.startswith("gguflow.")
    ]


def test_every_rule_is_judged_and_tested() -> None:
    """Those about files in the code, with a case in this file; those about behaviour with a test that names
    them.
    """
    text = SPEC.read_text(encoding="utf-8")
    ids = set(re.findall(r"^\| (I-\d{3}) ", text, re.MULTILINE))
    judged = set(re.findall(r'"(I-\d{3})"', Path(verification.__file__).read_text(encoding="utf-8")))
    tests = "".join(
        path.read_text(encoding="utf-8")
        for path in (
            Path(__file__),
            *map(
                Path(__file__).parents[1].joinpath,
                ("test_editing.py", "sources/test_gguf.py", "container/test_stale.py"),
            ),
        )
    )
    assert judged == {rule for rule in ids if rule < "I-010"}
    assert ids == set(re.findall(r"I-\d{3}", tests)), "and no id that the text lacks"


def test_the_example_of_the_spec() -> None:
    """Its bytes are those that the writer makes, and its digests those of these bytes."""
    text = SPEC.read_text(encoding="utf-8")
    dump = bytes.fromhex(
        "".join(re.findall(r"^    [0-9a-f]{4}  ((?:[0-9a-f]{2} ?){1,16})", text, re.MULTILINE))
    )
    metadata = {"general.architecture": string("any")}
    metadata |= integrity.placeholder(1, "f32", "llama-quantize 2026-09", [("x.safetensors", DIGEST)])
    tensors = (TensorInfo("a", (3,), 0, 0),)
    data = struct.pack("<3f", 1, 2, 3).ljust(32, b"\0")
    digest = integrity.tensor_digest([_digest(data)])
    length = len(build(metadata, tensors)) + len(data)
    assert integrity.completed_header(metadata, tensors, 32, length, [digest]) + data == dump
    for stated in (integrity.hexdigest(data), digest.hex(), f"{length} bytes"):
        assert stated in text


def _digest(content: bytes) -> bytes:
    digest = integrity.new_leaf_digest()
    digest.update(content)
    return bytes(digest.digest())
