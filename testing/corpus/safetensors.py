"""Cases about safetensors files, which the same validator judges."""

from __future__ import annotations

import json

from testing.corpus.case import Case, invalid, limit, malformed, unsupported, valid


def entry(
    dtype: str = "F32", shape: object = (2, 2), data_offsets: object = (0, 16), **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def file(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content + data


def st(make: object, id: str, content: bytes, *rules: str, **more: object) -> Case:
    case: Case = make(id, id[:3], content, *rules, suffix=".safetensors", **more)  # type: ignore[operator]
    return case


GOOD = entry()
INDEX = "model.safetensors.index.json"


def index(weight_map: object) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


CASES: list[Case] = [
    st(malformed, "F01-seven-bytes", bytes(7), "S-002"),
    st(malformed, "F01-empty", b"", "S-002"),
    st(malformed, "F02-header-over-limit-and-file", (100_000_001).to_bytes(8, "little") + b"{", "S-003"),
    st(malformed, "F03-header-passes-the-end", file({"w": GOOD}, b"", length=4000), "S-003"),
    st(malformed, "F03-length-all-ones", file({"w": GOOD}, length=2**64 - 1), "S-003"),
    st(malformed, "F03-length-wraps", file({"w": GOOD}, length=2**64 - 4), "S-003"),
    st(malformed, "F04-not-utf-8", file(b'{"\xff": 1}'), "J-001"),
    st(malformed, "F04-not-json", file(b'{"w": }'), "J-002"),
    st(malformed, "F04-not-an-object", file(b"[1, 2, 3]"), "S-005"),
    st(malformed, "F04-space-first", file(b' {"w": 1}'), "S-005"),
    st(valid, "F05-spaces-behind", file(json.dumps({"w": GOOD}).encode() + b"   ")),
    st(
        malformed,
        "F06-tensor-twice",
        file(b'{"w":' + json.dumps(GOOD).encode() + b',"w":' + json.dumps(GOOD).encode() + b"}"),
        "J-003",
    ),
    st(invalid, "F07-metadata-integer", file({"__metadata__": {"a": 1}, "w": GOOD}), "S-006"),
    st(valid, "F07-metadata-text", file({"__metadata__": {"format": "pt"}, "w": GOOD})),
    st(invalid, "F08-overlap", file({"a": entry(), "b": entry(data_offsets=(8, 24))}, bytes(24)), "S-016"),
    st(invalid, "F08-hole", file({"a": entry(), "b": entry(data_offsets=(20, 36))}, bytes(36)), "S-017"),
    st(invalid, "F08-hole-in-front", file({"a": entry(data_offsets=(4, 20))}, bytes(20)), "S-017"),
    st(invalid, "F08-begin-behind-end", file({"a": entry(data_offsets=(16, 0))}), "S-013"),
    st(invalid, "F09-bytes-behind", file({"a": entry()}, bytes(17)), "S-018"),
    st(invalid, "F09-truncated", file({"a": entry()}, bytes(15)), "S-014"),
    st(
        invalid,
        "F10-product-wraps",
        file({"a": entry(shape=(2**32, 2**32), data_offsets=(0, 0))}, b""),
        "S-012",
    ),
    st(invalid, "F10-bits-wrap", file({"a": entry(shape=(2**61,), data_offsets=(0, 0))}, b""), "S-012"),
    st(invalid, "F11-size-against-shape", file({"a": entry(shape=(2, 3))}), "S-015"),
    st(invalid, "F12-half-a-byte", file({"a": entry("F4", (3,), (0, 1))}, bytes(1)), "S-015"),
    st(valid, "F12-whole-bytes", file({"a": entry("F4", (4,), (0, 2))}, bytes(2))),
    st(unsupported, "F13-unknown-dtype", file({"a": entry("F128")}), "S-009"),
    st(unsupported, "F13-unknown-property", file({"a": entry(order="F")}), "S-008"),
    st(
        valid,
        "F14-not-aligned",
        file({"a": entry("U8", (3,), (0, 3)), "b": entry(data_offsets=(3, 19))}, bytes(19)),
    ),
    st(valid, "F15-empty-tensor", file({"a": entry(shape=(0, 7), data_offsets=(0, 0)), "b": entry()})),
    st(valid, "F15-rank-0", file({"a": entry(shape=(), data_offsets=(0, 4))}, bytes(4))),
    st(valid, "F15-nothing", file({}, b"")),
    st(valid, "F16-nan", file({"a": entry()}, b"\xff" * 16)),
    st(limit, "F17-depth-bomb", file(b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"), "J-005"),
    st(limit, "F17-number-too-large", file(b'{"a": 1e400}'), "J-004"),
    st(
        invalid, "F17-minus-0", file(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', b""), "S-010"
    ),
    st(
        invalid,
        "F17-float-as-integer",
        file(b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', bytes(4)),
        "S-010",
    ),
    st(
        invalid,
        "F17-true-as-integer",
        file(b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)),
        "S-010",
    ),
    st(malformed, "F17-lone-surrogate", file(b'{"\\ud800": 1}'), "J-006"),
    st(invalid, "F07-entry-not-an-object", file({"a": 1}), "S-007"),
    st(invalid, "F18-shard-missing", index({"w": "model-00001-of-00001.safetensors"}), "H-012", name=INDEX),
    st(
        invalid,
        "F18-tensor-not-in-shard",
        index({"w": "a.safetensors", "v": "a.safetensors"}),
        "H-013",
        name=INDEX,
        siblings={"a.safetensors": file({"w": GOOD})},
    ),
    st(
        invalid,
        "F18-tensor-in-two-shards",
        index({"w": "a.safetensors", "v": "b.safetensors"}),
        "H-014",
        name=INDEX,
        siblings={
            "a.safetensors": file({"w": GOOD}),
            "b.safetensors": file({"v": GOOD, "w": entry(data_offsets=(16, 32))}, bytes(32)),
        },
    ),
    st(
        invalid,
        "F18-tensor-not-in-index",
        index({"w": "a.safetensors"}),
        "H-015",
        name=INDEX,
        siblings={"a.safetensors": file({"w": GOOD, "v": entry(data_offsets=(16, 32))}, bytes(32))},
    ),
    st(invalid, "S08-shard-outside", index({"w": "../a.safetensors"}), "H-010", name=INDEX),
    st(
        valid,
        "F18-index",
        index({"w": "a.safetensors"}),
        name=INDEX,
        siblings={"a.safetensors": file({"w": GOOD})},
    ),
]
