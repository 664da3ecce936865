"""What to say of a checkpoint whose tensors are not those of its family: what made it, and what helps."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gguflow.errors import Finding, UnsupportedError
from gguflow.models.documents import Document
from gguflow.sources.base import Checkpoint, SourceTensor, json_path

_MAX_PREFIXES = 40
_LONGEST_CLASS = 100
_MAX_COMPONENTS = 3
_MAX_NAMES = 5000
_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")

_BY_NAME: tuple[tuple[str, str], ...] = (
    (r".*\.SCB", "by bitsandbytes to 8 bits"),
    (r".*\.g_idx", "by GPTQ"),
    (r".*\.(qweight|qzeros)", "by AWQ or GPTQ"),
    (r".*\.weight_packed", "by llm-compressor (compressed-tensors)"),
    (r".*\.weight_scale_2", "to NVFP4 (ModelOpt)"),
    (r".*\.weight_scale_inv", "to FP8"),
    (r".*_proj_(blocks|scales)", "to MXFP4"),
    (r".*\.(codes|codebooks)", "by AQLM"),
    (r".*\.(W_q|meta)", "by HQQ"),
)
"""The first pattern that matches a tensor's whole name tells how the weights were quantized."""


def unknown_class(config: Document, name: str, known: Mapping[str, object]) -> UnsupportedError:
    """The error for a class that no family declares (M-004): nothing is guessed.

    config: config.json.
    name: of the class.
    known: the known classes.
    """
    words = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name[:_LONGEST_CLASS].lower(), words, n=1, cutoff=0.5)
    nearest = ""
    if close:
        nearest = (
            f"; the nearest known class is {words[close[0]]}: if the model is one, name it under "
            f'"architectures" in {config.file.name}'
        )
    message = (
        f"unknown class of models{nearest}; --arch NAME keeps tensor names and writes no hyper-parameters "
        f"and no tokenizer; gguflow architectures lists the {len(known)} classes that are known"
    )
    return UnsupportedError(config.file, Finding("M-004", message, "$.architectures[0]", found=name))


def refuse_quantized(config: Document, tensors: Mapping[str, SourceTensor]) -> None:
    """Raise UnsupportedError (M-007) if weights are quantized, except by bitsandbytes to 4 bits: as the
    configuration says, or as the tensors show.

    config: config.json.
    tensors: of the checkpoint, those of bitsandbytes in 4 bits as one each.
    """
    if "quantization_config" in config:
        values = config.section("quantization_config").values
        method = values.get("quant_method")
        if method == "bitsandbytes" and values.get("load_in_4bit") is True:
            return
        raise _quantized(_by_method(values), "$.quantization_config.quant_method", method, config.file)
    if "quantization" in config:
        values = config.section("quantization").values
        raise _quantized(_by_method(values), "$.quantization", dict(values), config.file)
    for tensor in tensors.values():
        how = _by_tensor(tensor, tensors)
        if how:
            raise _quantized(how, json_path(tensor.name), tensor.dtype, tensor.file.path)


def _quantized(how: str, path: str, found: object, file: Path) -> UnsupportedError:
    message = f"the weights are quantized already, {how}; convert the original checkpoint instead"
    return UnsupportedError(file, Finding("M-007", message, path, found=found))


def _by_method(values: Mapping[str, Any]) -> str:
    """How weights were quantized, by the configuration."""
    method = values.get("quant_method")
    if method is None and "group_size" in values and "bits" in values:
        return "by MLX"
    if method == "bitsandbytes":
        return "by bitsandbytes to 8 bits" if values.get("load_in_8bit") else "by bitsandbytes, not to 4 bits"
    return "and not by bitsandbytes to 4 bits"


def _by_tensor(tensor: SourceTensor, tensors: Mapping[str, SourceTensor]) -> str:
    """How the weights were quantized, by a tensor that belongs to a method; "" if it belongs to none."""
    stem = tensor.name.removesuffix(".weight")
    if tensor.dtype == "U32" and f"{stem}.scales" in tensors:
        return "by MLX"
    if tensor.dtype in _FLOAT8 and (
        f"{tensor.name}_scale" in tensors or f"{tensor.name}_scale_inv" in tensors
    ):
        return "to FP8"
    return next((how for pattern, how in _BY_NAME if re.fullmatch(pattern, tensor.name)), "")


def require_numbers(source: SourceTensor) -> None:
    """Raise UnsupportedError (M-007) if a tensor of a family holds integers: codes, not weights.

    source: the tensor.
    """
    kind = None if source.format is None else source.format.number_type
    if kind is not None and kind.kind in "iu":
        message = "the weights are integers, so they are quantized; convert the original checkpoint instead"
        raise UnsupportedError(
            source.file.path, Finding("M-007", message, json_path(source.name), found=source.dtype)
        )


def unknown_tensor_hint(source: SourceTensor, checkpoint: Checkpoint, is_known: Callable[[str], bool]) -> str:
    """What helps against a tensor that the family does not have: the end of a message.

    source: the tensor.
    checkpoint: all tensors.
    is_known: whether the family has a tensor of this name in a checkpoint.
    """
    if ".switch_mlp." in source.name:
        return "; this is MLX's form of experts: convert the original checkpoint instead"
    if "tok_embeddings.weight" in checkpoint.tensors and source.file.path.name.startswith("consolidated"):
        return "; these are Mistral's own names: with --mistral-format, params.json and these files are read"
    prefix = common_prefix(checkpoint.tensors, is_known)
    skipped = _skipping(source.name)
    if not prefix:
        return f"; if the model does not need it, {skipped} leaves it out"
    if source.name.startswith(prefix) and is_known(source.name.removeprefix(prefix)):
        return f"; with --strip-prefix {prefix} it is known"
    return f"; --strip-prefix {prefix} makes others known, and {skipped} leaves out this one"


def common_prefix(names: Iterable[str], is_known: Callable[[str], bool]) -> str:
    """The prefix without which most tensors are known that are not known now; "" if there is none that makes
    most of those known that begin with it.

    names: of the checkpoint's tensors.
    is_known: whether the family has a tensor of this name in a checkpoint.
    """
    names = list(itertools.islice(names, _MAX_NAMES))
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[:_MAX_COMPONENTS]
        counts.update(f"{start}." for start in itertools.accumulate(parts, "{}.{}".format))
    best, most = "", 0
    for prefix, n_names in counts.most_common(_MAX_PREFIXES):
        known = sum(name.startswith(prefix) and is_known(name.removeprefix(prefix)) for name in names)
        before = sum(name.startswith(prefix) and is_known(name) for name in names)
        if known - before > most and 2 * known > n_names:
            best, most = prefix, known - before
    return best


def _skipping(name: str) -> str:
    """The option that leaves out a tensor, and those beside it."""
    start = re.match(r"[A-Za-z_]+\.(?!\d)", name)
    text = start[0] if start and not name.startswith(("model.", "layers.")) else name
    return f"--skip-tensor '^{re.escape(text)}'" if text != name else f"--skip-tensor '^{re.escape(name)}$'"


def missing_tensor_hint(name: str, n_missing: int, config: Document) -> str:
    """What helps against a tensor that is missing: the end of a message.

    name: in GGUF.
    n_missing: how many there are.
    config: config.json.
    """
    if name == "output.weight":
        return (
            '; if its embeddings are also its output matrix, set "tie_word_embeddings": true in '
            f"{config.file.name}"
        )
    if n_missing > 1:
        return f", nor to {n_missing - 1} others; is a file of weights missing?"
    return ""
