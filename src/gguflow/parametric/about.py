"""Descriptions of encodings for printed tables: formula, summary, and the measured error of the presets."""

from __future__ import annotations

from gguflow.parametric.axes import Codebook, Entropy, Granularity, Nesting, Quantizer, Range, ScaleType
from gguflow.parametric.encoding import Encoding

SNR: dict[str, float] = {
    "int8_b128": 43.77, "int8_row": 41.05, "int4_b128": 18.55,
    "affine2_b32": 7.80, "affine2_b64": 6.76, "affine2_b128": 5.91,
    "affine3_b32": 15.22, "affine3_b64": 14.16, "affine3_b128": 13.30,
    "affine4_b32": 21.82, "affine4_b64": 20.79, "affine4_b128": 19.92,
    "affine5_b32": 28.16, "affine5_b64": 27.12, "affine5_b128": 26.23,
    "affine6_b32": 34.30, "affine6_b64": 33.23, "affine6_b128": 32.37,
    "affine8_b32": 46.44, "affine8_b64": 45.38, "affine8_b128": 44.52,
    "affine2_b32_dq": 7.80, "affine2_b64_dq": 6.76, "affine2_b128_dq": 5.91,
    "affine3_b32_dq": 15.22, "affine3_b64_dq": 14.16, "affine3_b128_dq": 13.30,
    "affine4_b32_dq": 21.82, "affine4_b64_dq": 20.79, "affine4_b128_dq": 19.92,
    "affine5_b32_dq": 28.16, "affine5_b64_dq": 27.12, "affine5_b128_dq": 26.23,
    "affine6_b32_dq": 34.30, "affine6_b64_dq": 33.23, "affine6_b128_dq": 32.37,
    "affine8_b32_dq": 46.38, "affine8_b64_dq": 45.36, "affine8_b128_dq": 44.52,
    "nf4_b64": 20.72, "nf4_b64_dq": 20.71, "fp4_b64": 18.29, "af4_b64": 20.38, "log4_b64": 19.10,
    "kmeans4_row": 20.26, "quantile4_b256": 17.01, "ternary_absmean": 5.79, "sign_b128": 4.44,
}  # fmt: skip
"""Signal-to-noise ratio in dB of Gaussian weights after encoding and decoding, by preset; tested."""


def formula(e: Encoding) -> str:
    """The formula that decodes a weight, in one line."""
    if e.is_lossless:
        return "w = value"
    scale = {
        Nesting.NONE: "d",
        Nesting.LINEAR: "m * s",
        Nesting.OFFSET: "(m * s + o)",
        Nesting.DYNAMIC: "(m * DYNAMIC[s] + o)",
    }[e.nesting]
    if e.is_learned and not e.has_chunk_scales:
        return "w = CODEBOOK[q]"
    codes = {
        Quantizer.ABSMAX: "q",
        Quantizer.AFFINE: "(q - zero)",
        Quantizer.MIN: "q + min",
        Quantizer.CODEBOOK: f"{'CODEBOOK' if e.is_learned else e.codebook.name}[q]",
        Quantizer.TERNARY: "(q - 1)",
        Quantizer.SIGN: "(2 * q - 1)",
    }
    return f"w = {scale} * {codes[e.quantizer]}"


def summary(e: Encoding) -> str:
    """What a payload holds, in one line."""
    if e.is_lossless:
        return "the bytes of the source as planes, exponents apart; zstd"
    kinds = {
        Codebook.LOG: f"codes for a sign and a power of {e.log_base:.4g}",
        Codebook.KMEANS: "codes for k-means centres",
        Codebook.QUANTILE: "codes for means of quantile buckets",
    }
    words = {
        Quantizer.TERNARY: "ternary codes, five in a byte",
        Quantizer.SIGN: "signs",
        Quantizer.CODEBOOK: f"codes for {e.codebook.name} values",
    }
    text = kinds.get(e.codebook, words.get(e.quantizer, "codes"))
    if e.bits > 1:
        text = f"{e.bits}-bit {text}"
    text += ", " + _scales(e)
    ranges = {
        Range.PERCENTILE: f"clipped at {e.percentile / 10_000:g} %",
        Range.CLIP: f"clipped at {e.clip:g}",
        Range.SEARCH: "range searched",
    }
    if e.range is not Range.FULL:
        text += f", {ranges[e.range]}"
    if e.outliers:
        text += f", {e.outliers / 10_000:g} % outliers apart"
    elif e.outlier_threshold:
        text += f", outliers above {e.outlier_threshold:g} apart"
    return text + ("; zstd" if e.entropy is Entropy.ZSTD else "")


def _scales(e: Encoding) -> str:
    what = {ScaleType.F32: "f32", ScaleType.F16: "f16", ScaleType.BF16: "bf16"}[e.scale_type]
    where = {Granularity.COLUMNS: f"{e.block} columns", Granularity.BLOCK: f"{e.block} weights"}.get(
        e.granularity, e.granularity.name.lower()
    )
    if e.is_learned and not e.has_chunk_scales:
        return f"a codebook per {where}"
    second = {Quantizer.AFFINE: "zero point", Quantizer.MIN: "min"}.get(e.quantizer)
    if not e.is_nested:
        return f"one {what} scale per {where}" if second is None else f"{what} scale and {second} per {where}"
    nested = f"{e.scale_bits}-bit scale" + ("" if second is None else f" and {e.min_bits}-bit {second}")
    return f"{nested} per {where}, super-blocks of {e.super_block}"
