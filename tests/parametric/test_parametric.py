"""The parametric family: kernels against the scalar twin, payloads against the grammar, worked examples, and
what is refused.
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gguflow
from gguflow.errors import NonFiniteError, ShapeError, UnknownFormatError, UsageError
from gguflow.kernels import nested_scales
from gguflow.kernels import parametric as kernels
from gguflow.parametric import (
    Encoder,
    Encoding,
    Payload,
    about,
    axes,
    codebooks,
    find,
    grammar,
    is_name,
    judging,
    presets,
    reference,
    reference_decoding,
)
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.names import name_of

Floats = NDArray[np.float32]

POINTS = [
    *presets(),
    "int4_b128+zstd",
    "affine3_b64+zstd",
    "ternary_absmean+zstd",
    "int4_b128+outliers=0.5%",
    "nf4_b64_dq+outliers=>2.5",
    "affine4_b64_dq+outliers=1%+zstd",
    "sb:bits=3,block=16,super=512,scale_bits=6,min_bits=6",
    "sb:bits=5,block=32",
    "sb:bits=7,block=48,quantizer=affine,min_bits=8,scale=f16",
    "sb:bits=6,block=16,quantizer=min,scale=bf16",
    "sb:bits=4,block=32,super=8,scale_bits=6,nesting=linear,scale=f16",
    "sb:bits=1,block=64,quantizer=min",
    "sb:bits=1,block=64,quantizer=affine,min_bits=1",
    "sb:bits=4,per=row,codebook=nf4,scale=f16",
    "sb:bits=4,per=tensor,codebook=nf4",
    "sb:bits=3,block=64,codebook=log,base=2",
    "sb:bits=6,block=64,codebook=log,base=1.25",
    "sb:bits=8,per=tensor",
    "sb:bits=4,per=tensor,quantizer=affine,min_bits=4",
    "sb:bits=4,per=tensor,quantizer=min",
    "sb:bits=4,block=16,per=columns",
    "sb:bits=3,block=16,per=columns,quantizer=affine,min_bits=8",
    "sb:block=80,quantizer=ternary,scale=f16",
    "sb:per=row,quantizer=ternary",
    "sb:per=row,quantizer=sign",
    "sb:bits=4,block=32,range=search",
    "sb:bits=3,block=32,quantizer=affine,min_bits=8,scale=f16,range=search",
    "sb:bits=2,block=16,super=16,scale_bits=4,min_bits=4,range=search",
    "sb:bits=4,block=64,codebook=nf4,range=search",
    "sb:bits=5,block=64,codebook=log,base=1.25,range=search",
    "sb:bits=4,block=64,percentile=95",
    "sb:bits=4,per=row,quantizer=affine,min_bits=4,percentile=99.9",
    "sb:bits=4,block=64,clip=1.5",
    "sb:bits=4,per=tensor,clip=2",
    "sb:bits=2,per=row,codebook=quantile",
    "sb:bits=3,per=row,codebook=kmeans,scale=bf16",
    "sb:bits=4,per=tensor,codebook=kmeans",
    "sb:bits=4,block=16,per=columns,codebook=kmeans",
    "sb:bits=5,block=64,codebook=kmeans,scale=f16",
]
QUANTIZED = [name for name in POINTS if not find(name).is_lossless]

every_point = pytest.mark.parametrize("name", POINTS)
every_quantized_point = pytest.mark.parametrize("name", QUANTIZED)


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def parts_of(x: NDArray[Any], geometry: Geometry) -> list[NDArray[Any]]:
    matrix = x.reshape(geometry.rows, geometry.columns)
    return [matrix[i * geometry.rows_per_chunk :][: geometry.chunk_rows(i)] for i in range(geometry.n_chunks)]


def adversarial(columns: int) -> Floats:
    """Rows that have broken encoders: zeros of both signs, constants, one value, ties, extremes, subnormal
    numbers.
    """
    ramp = np.linspace(-1, 1, columns, dtype=np.float32)
    rows = [
        np.zeros(columns),
        -np.zeros(columns),
        np.ones(columns),
        np.full(columns, -2.5),
        np.eye(1, columns, columns // 2)[0],
        -np.eye(1, columns)[0],
        np.round(ramp * 14) / 2,
        np.round(ramp * 30) / 2 - 3,
        ramp * 1e30,
        ramp * 3e38,
        ramp * 1e-30,
        ramp * 1e-42,
        np.where(np.arange(columns) % 2 == 0, 1e-45, 0),
        np.abs(ramp) + 1,
        -np.abs(ramp) - 1,
        np.where(np.arange(columns) % 16 == 0, 100, ramp),
    ]
    return np.array(rows, np.float32)


def without_outliers(encoder: Encoder, x: Floats) -> Floats:
    from gguflow.parametric import outliers

    flat = x.reshape(-1).copy()
    if encoder.encoding.has_outliers:
        flat[outliers.choose(encoder.geometry, x.shape[0], flat).places] = 0
    return flat


def ready_encoder(encoding: Encoding, x: Floats) -> Encoder:
    encoder = Encoder(encoding, x.shape)
    if encoding.needs_first_pass:
        for i, part in enumerate(parts_of(x, encoder.geometry)):
            encoder.observe(part, i)
        encoder.finish_observing()
    return encoder


def reference_sections(encoder: Encoder, x: Floats) -> dict[str, bytes]:
    with np.errstate(over="ignore"):
        fields = reference.encode(encoder.geometry, x.shape[0], without_outliers(encoder, x), encoder.tables)
    kinds = grammar.sections(encoder.geometry, x.shape[0])
    return {name: kind.build(fields[name]) for name, kind in kinds.items() if name != "outliers"}


# --- the twins ------------------------------------------------------------------------------------


def test_numbers_in_kernels_are_those_of_the_descriptor() -> None:
    for module, enumeration in (
        (kernels, axes.Quantizer),
        (kernels, axes.Nesting),
        (nested_scales, axes.ScaleType),
    ):
        for member in enumeration:
            if member.name not in ("LOSSLESS", "NONE"):
                assert getattr(module, member.name) == member


@every_quantized_point
@pytest.mark.parametrize("columns", [208, 352])
def test_encode_equals_the_reference(name: str, columns: int) -> None:
    """Adversarial rows, and ordinary ones; row lengths that blocks do not divide."""
    rng = generator(name)
    for x in (adversarial(columns), (rng.standard_normal((3, columns)) * 0.02).astype(np.float32)):
        encoder = ready_encoder(find(name), x)
        chunk = encoder.encode_chunk(0, x)
        payload = Payload(gguflow.quantize(x, name, allow_non_finite=True))
        assert (payload.chunk(0) == chunk).all()
        ours = payload.sections(0)
        for section, expected in reference_sections(encoder, x).items():
            assert ours[section].tobytes() == expected, section


@pytest.mark.parametrize("name", [name for name in QUANTIZED if find(name).is_fixed_size])
def test_decode_equals_the_reference_on_any_bytes(name: str) -> None:
    """Random sections: scales may be NaN or infinite, codes are what they are. (Random bytes do not come
    through entropy coding.)
    """
    rng = generator(name)
    geometry = Geometry(find(name), (5, 208))
    encoder = ready_encoder(find(name), rng.standard_normal((5, 208)).astype(np.float32))
    whole = encoder.encode_chunk(0, rng.standard_normal((5, 208)).astype(np.float32))
    kinds = grammar.sections(geometry, 5)
    chunk = whole.copy()
    for section in geometry.sections(5):
        if section.name == "outliers":
            continue
        raw = rng.integers(0, 256, section.nbytes, np.uint8)
        if geometry.encoding.quantizer is axes.Quantizer.TERNARY and section.name == "codes":
            raw %= 243
        chunk[section.offset : section.offset + section.nbytes] = raw
    payload = Payload(np.concatenate([np.frombuffer(encoder.prefix(), np.uint8), chunk]))
    fields = {section: kind.parse(payload.sections(0)[section].tobytes()) for section, kind in kinds.items()}
    with np.errstate(all="ignore"):
        expected = reference_decoding.decode(geometry, 5, fields, encoder.tables)
    if geometry.encoding.has_outliers:
        places = [
            p + 65536 * g
            for g, n in enumerate(fields["outliers"]["counts"])
            for p in fields["outliers"]["places"][:n]
        ]
        expected[places] = fields["outliers"]["values"]
    assert_same_floats(payload.decode_rows().reshape(-1), expected)


def assert_same_floats(a: Floats, b: Floats) -> None:
    """Equal to the bit, but that one NaN is as good as another."""
    both = np.isnan(a) & np.isnan(b)
    assert ((a.view(np.uint32) == b.view(np.uint32)) | both).all()


@every_point
@pytest.mark.parametrize("shape", [(7, 208), (1, 16), (3, 2, 64), (400,)], ids=str)
def test_grammar_and_geometry_agree(name: str, shape: tuple[int, ...]) -> None:
    geometry = Geometry(find(name), shape)
    assert grammar.DESCRIPTOR.sizeof() == 256
    assert grammar.prefix(geometry).sizeof() == geometry.prefix_nbytes
    for section in geometry.sections(geometry.rows):
        if section.name != "outliers":
            assert grammar.sections(geometry, geometry.rows)[section.name].sizeof() == section.nbytes
    if geometry.encoding.is_fixed_size:
        assert grammar.chunk(geometry, geometry.rows).sizeof() == geometry.chunk_nbytes(geometry.rows)


@every_point
def test_the_prefix_parses_by_the_grammar(name: str) -> None:
    x = generator(name).standard_normal((9, 208)).astype(np.float32)
    payload = gguflow.quantize(x, name)
    geometry = Payload(payload).geometry
    parsed = grammar.prefix(geometry).parse(payload[: geometry.prefix_nbytes].tobytes())
    assert grammar.prefix(geometry).build(parsed) == payload[: geometry.prefix_nbytes].tobytes()
    head, e = parsed.descriptor, geometry.encoding
    assert tuple(head.shape[: head.n_dimensions]) == (9, 208)
    for parameter in (
        "quantizer",
        "bits",
        "granularity",
        "codebook",
        "scale_type",
        "nesting",
        "scale_bits",
        "min_bits",
        "range",
        "entropy",
        "block",
    ):
        assert head[parameter] == getattr(e, parameter)
    assert head.payload_nbytes == payload.size
    assert [entry.nbytes for entry in parsed.index] == (
        [] if e.is_fixed_size else [Payload(payload).chunk_span(0)[1]]
    )


# --- whole payloads -------------------------------------------------------------------------------


@every_point
@pytest.mark.parametrize("shape", [(700, 1536), (3, 2, 80), (5, 64), (1, 16), (1008,)], ids=str)
def test_any_rows_decode_alone(name: str, shape: tuple[int, ...]) -> None:
    x = generator(name).standard_normal(shape).astype(np.float32)
    packed = gguflow.quantize(x, name)
    payload = Payload(packed)
    assert payload.shape == shape
    assert payload.encoding == find(name)
    assert (
        packed.size == payload.geometry.payload_nbytes
        if payload.encoding.is_fixed_size
        else packed.size <= payload.geometry.payload_nbytes
    )
    assert list(judging.check(payload)) == []
    whole = gguflow.dequantize(packed, "auto", threads=2)
    assert whole.shape == shape
    matrix = whole.reshape(payload.geometry.rows, -1)
    n = payload.geometry.rows
    for first, last in {(0, n), (n // 3, n // 3 + 1), (n // 2, n), (n - 1, n), (n, n)}:
        assert (payload.decode_rows(first, last) == matrix[first:last]).all()


@every_quantized_point
def test_chunks_do_not_depend_on_order_or_threads(name: str) -> None:
    x = generator(name).standard_normal((1400, 1008)).astype(np.float32)
    once = gguflow.quantize(x, name)
    assert (gguflow.quantize(x, name, threads=2) == once).all()
    encoder = ready_encoder(find(name), x)
    parts = parts_of(x, encoder.geometry)
    assert len(parts) > 1
    with ThreadPoolExecutor(2) as pool:
        chunks = dict(pool.map(lambda i: (i, encoder.encode_chunk(i, parts[i])), reversed(range(len(parts)))))
    assert all((Payload(once).chunk(i) == chunk).all() for i, chunk in chunks.items())


@pytest.mark.parametrize("dtype", ["float16", "float64", "float32"])
@every_quantized_point
def test_source_dtypes(name: str, dtype: str) -> None:
    x = generator(name).standard_normal((4, 96)).astype(dtype)
    packed, same = gguflow.quantize(x, name), gguflow.quantize(x.astype(np.float32), name)
    assert (gguflow.dequantize(packed, name) == gguflow.dequantize(same, name)).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(33, 47), (5,), (2000, 700)], ids=str)
def test_lossless_is_lossless(dtype: str, shape: tuple[int, ...]) -> None:
    """Every bit pattern, NaN with payloads included."""
    rng = np.random.default_rng(1)
    words = np.dtype(dtype).itemsize
    x = rng.integers(0, 256, (*shape[:-1], shape[-1] * words), np.uint8).view(dtype)
    payload = Payload(gguflow.quantize(x, "lossless", allow_non_finite=True))
    assert (payload.raw_rows() == x.reshape(payload.geometry.rows, -1).view(np.uint8)).all()
    values = gguflow.dequantize(gguflow.quantize(np.nan_to_num(x), "lossless"), "lossless")
    assert (values == np.nan_to_num(x)).all()
    assert values.shape == shape


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_lossless_refuses_what_is_not_finite(dtype: str, bad: float) -> None:
    x = np.ones((3, 5), dtype)
    x[2, 1] = bad
    with pytest.raises(gguflow.NonFiniteError, match=r"at index \[2, 1\]") as caught:
        gguflow.quantize(x, "lossless")
    assert caught.value.index == 11
    assert np.array_equal(
        gguflow.dequantize(gguflow.quantize(x, "lossless", allow_non_finite=True), "lossless"),
        x,
        equal_nan=True,
    )


def test_lossless_pays_for_weights() -> None:
    """Gaussian weights in bfloat16: the exponents have 2.6 bits."""
    x = (np.random.default_rng(2).standard_normal((512, 1024)) * 0.02).astype(np.float32)
    words = (x.view(np.uint32) >> 16).astype("<u2")
    encoder = Encoder(find("lossless"), x.shape, "bf16")
    parts = [encoder.encode_chunk(i, part) for i, part in enumerate(parts_of(words, encoder.geometry))]
    payload = Payload(gguflow.parametric.joined(encoder, parts))
    assert words.nbytes / payload.nbytes > 1.45
    assert (payload.raw_rows().view("<u2") == words).all()
    assert (payload.decode_rows() == (words.astype(np.uint32) << 16).view(np.float32)).all()


# --- worked examples ------------------------------------------------------------------------------


def test_asymmetric_four_bits() -> None:
    """The zero point is rounded, then added to the rounded quotient: zero stays zero, and every weight is
    within half a step.
    """
    packed = gguflow.quantize(np.array([-0.9, -0.3, 0.2, 0.5, 1.0], np.float32), "affine4_b64")
    sections = Payload(packed).sections(0)
    assert sections["codes"][:3].tobytes().hex() == "059bf0"
    assert sections["zeros"].tolist() == [7]
    assert sections["scales"].view("<f4")[0] == np.float32(1.9) / np.float32(15)
    assert np.round(gguflow.dequantize(packed, "affine4_b64"), 4).tolist() == pytest.approx(
        [-0.8867, -0.2533, 0.2533, 0.5067, 1.0133], abs=1e-6
    )


def test_absmax_four_bits() -> None:
    sections = Payload(
        gguflow.quantize(np.array([0.0234, -0.0156, 0.0312, -0.0078], np.float32), "int4_b128")
    ).sections(0)
    assert sections["codes"][:2].tolist() == [0x5C, 0x7E]
    assert sections["scales"].view("<f4")[0] == np.float32(0.0312) / np.float32(7)


def test_double_quantization_of_ten_thousand_scales() -> None:
    """10 kB, and a meta-scale and an offset for each of 40 super-blocks; without: 40 kB."""
    geometry = Geometry(find("affine4_b64_dq"), (1, 640_000))
    sizes = {section.name: section.nbytes for section in geometry.sections(1)}
    assert sizes["scales"] == 10_000
    assert sizes["meta"] == 40 * 8
    assert {s.name: s.nbytes for s in Geometry(find("affine4_b64"), (1, 640_000)).sections(1)}[
        "scales"
    ] == 40_000


# --- names ----------------------------------------------------------------------------------------


@every_point
def test_names_come_back(name: str) -> None:
    encoding = find(name.upper())
    assert encoding.name == name
    assert name_of(find(encoding.name)) == name
    assert is_name(name)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nf5_b64", UnknownFormatError),
        ("nf4_b64+gzip", UsageError),
        ("nf4_b64+outliers=50%", UsageError),
        ("nf4_b64+outliers=0.00001%", UsageError),
        ("lossless+outliers=1%", UsageError),
        ("sb:bits=9,block=64", UsageError),
        ("sb:bits=4", UsageError),
        ("sb:bits=4,block=64,bits=4", UsageError),
        ("sb:bits=4,block=65", UsageError),
        ("sb:bits=4,block=2048", UsageError),
        ("sb:bits=4,block=64,colour=red", UsageError),
        ("sb:bits=x,block=64", UsageError),
        ("sb:bits=4,block=64,super=1,scale_bits=8", UsageError),
        ("sb:bits=4,block=64,super=16", UsageError),
        ("sb:bits=3,block=64,codebook=nf4", UsageError),
        ("sb:bits=4,block=64,codebook=log", UsageError),
        ("sb:bits=4,block=64,base=2", UsageError),
        ("sb:bits=4,block=64,min_bits=3,quantizer=affine", UsageError),
        ("sb:bits=4,per=tensor,scale=f16", UsageError),
        ("sb:bits=4,per=row,block=64", UsageError),
        ("sb:bits=4,per=tensor,percentile=99.9", UsageError),
        ("sb:bits=4,block=64,percentile=99.9,clip=2", UsageError),
        ("sb:bits=4,block=64,clip=inf", UsageError),
        ("sb:bits=4,block=64,nesting=dynamic,super=256,scale_bits=6", UsageError),
    ],
)
def test_names_that_are_none(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        find(name)


# --- calls that cannot be carried out -------------------------------------------------------------


def test_calls_that_are_refused() -> None:
    x = np.ones((4, 64), np.float32)
    with pytest.raises(ShapeError, match="int32"):
        gguflow.quantize(x.astype(np.int32), "nf4_b64")
    with pytest.raises(ShapeError, match="empty"):
        gguflow.quantize(x[:0], "nf4_b64")
    with pytest.raises(ShapeError, match="scalar"):
        gguflow.quantize(np.float32(1), "nf4_b64")
    with pytest.raises(ShapeError, match="column groups"):
        gguflow.quantize(x, "sb:bits=4,block=48,per=columns")
    with pytest.raises(UsageError, match="out"):
        gguflow.quantize(x, "nf4_b64", out=np.empty(9, np.uint8))
    with pytest.raises(UsageError, match="is encoded as"):
        gguflow.dequantize(gguflow.quantize(x, "nf4_b64"), "int4_b128")
    with pytest.raises(UsageError, match="tables"):
        Encoder(find("nf4_b64_dq"), (4, 64)).encode_chunk(0, x)
    with pytest.raises(UsageError, match="chunks"):
        Encoder(find("nf4_b64_dq"), (4, 64)).finish_observing()
    with pytest.raises(UsageError, match="rows"):
        Encoder(find("nf4_b64"), (4, 64)).encode_chunk(0, x[:3])
    with pytest.raises(UsageError, match="rows"):
        Payload(gguflow.quantize(x, "nf4_b64")).decode_rows(3, 5)


@every_quantized_point
def test_non_finite_weights_are_refused(name: str) -> None:
    x = np.ones((3, 64), np.float32)
    x[1, 30] = np.nan
    with pytest.raises(NonFiniteError, match=r"at index \[1, 30\]"):
        gguflow.quantize(x, name)


@pytest.mark.parametrize(
    "name",
    [
        "sb:bits=4,block=32",
        "sb:bits=3,block=64,quantizer=affine,min_bits=8",
        "sb:bits=3,block=32,quantizer=min",
        "nf4",
    ],
)
def test_a_searched_range_has_less_error(name: str) -> None:
    """Overall, and, with importance, where it matters."""
    name = "sb:bits=4,block=64,codebook=nf4" if name == "nf4" else name
    x = generator(name).standard_t(4, (64, 256)).astype(np.float32)
    importance = np.where(np.arange(256) % 4 == 0, 50, 1).astype(np.float32)

    def error(packed: NDArray[np.uint8], weights: Floats) -> float:
        return float((weights * np.square(x.astype(np.float64) - gguflow.dequantize(packed, "auto"))).sum())

    plain, searched = gguflow.quantize(x, name), gguflow.quantize(x, name + ",range=search")
    weighted = gguflow.quantize(x, name + ",range=search", importance)
    assert error(searched, np.ones(256, np.float32)) < error(plain, np.ones(256, np.float32))
    assert error(weighted, importance) < error(searched, importance)


@pytest.mark.parametrize("name", ["kmeans4_row", "sb:bits=3,per=tensor,codebook=kmeans"])
def test_importance_moves_learned_codebooks(name: str) -> None:
    x = generator(name).standard_normal((8, 512)).astype(np.float32) + np.where(
        np.arange(512) < 256, 0, 3
    ).astype(np.float32)
    importance = np.where(np.arange(512) < 256, 100, 1).astype(np.float32)
    errors = [
        float((importance * np.square(x.astype(np.float64) - gguflow.dequantize(packed, "auto"))).sum())
        for packed in (
            gguflow.quantize(x, name),
            gguflow.quantize(x, name, importance),
            gguflow.quantize(x, name, 0 * importance),
        )
    ]
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] == errors[0]


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_packed_as_one_long_number(bits: int) -> None:
    from gguflow.kernels import bit_packing

    for run in (1, 5, 8, 31, 32, 64, 100):
        codes = np.random.default_rng(run).integers(0, 1 << bits, 3 * run).astype(np.uint8)
        packed = np.empty(3 * -(-run * bits // 8), np.uint8)
        bit_packing.pack(codes, run, bits, packed)
        kind = grammar.bit_fields(run, bits)
        assert packed.tobytes() == b"".join(
            kind.build(codes[r * run : r * run + run].tolist()) for r in range(3)
        )
        back = np.empty_like(codes)
        bit_packing.unpack(packed, run, bits, back)
        assert (back == codes).all()


@pytest.mark.parametrize("name", about.SNR)
def test_declared_error_is_the_measured_one(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((16, 4096)).astype(np.float32)
    error = x.astype(np.float64) - gguflow.dequantize(gguflow.quantize(x, name), name)
    measured = 10 * np.log10((x.astype(np.float64) ** 2).sum() / (error**2).sum())
    assert measured == pytest.approx(about.SNR[name], abs=0.05)


def test_every_preset_declares_its_error() -> None:
    assert presets().keys() - about.SNR.keys() == {"lossless"}


def test_the_dynamic_map() -> None:
    values = codebooks.dynamic()
    assert values.size == 256
    assert (np.diff(values) > 0).all()
    assert values[-1] == 1
    assert values[127] == 0
    assert (values[128:255] == -values[:127][::-1]).all()
