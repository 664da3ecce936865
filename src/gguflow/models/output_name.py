"""The default name of an output file: llama.cpp's naming convention, and the characters that are allowed.

A model has a stem that ends with "{type}"; `file_name` makes a file name from it. Names come from untrusted
model cards and metadata, so they must not contain what would choose another directory.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:{}]")
_BRACES = str.maketrans("{}", "--")

# At the end of a file's name, what the community writes there: -F16, .Q4_K_M, -IQ2_XXS, -MXFP4_MOE.
_TYPE = re.compile(r"[-._](BF16|F16|F32|I?Q\d_\w+|TQ\d_\d|MXFP4(_MOE)?|NVFP4)$", re.IGNORECASE)


def naming_convention(
    name: str,
    basename: str | None = None,
    size_label: str | None = None,
    finetune: str | None = None,
    version: str | None = None,
) -> str:
    """A model's name in llama.cpp's convention, without the type: "Qwen2-0.5B-Instruct-v0.2".

    name: of the model, for models without a basename.
    basename, size_label, finetune, version: the parts, None for those that are absent.
    """
    base = (name if basename is None else basename).strip().replace(" ", "-").replace("/", "-")
    tuned = [text.strip().replace(" ", "-") for text in (finetune, version) if text is not None]
    return "-".join((base, *([] if size_label is None else [size_label]), *tuned))


def stem_from_card(name: str) -> str:
    """The stem for a name that a model card gives, without separators, control characters and braces."""
    return f"{_UNSAFE.sub('-', name)}-{{type}}"


def stem_from_path(name: str) -> str:
    """The stem for the name of a file or directory without its suffix."""
    return f"{name.translate(_BRACES) or 'model'}-{{type}}"


def stem_from_gguf(name: str) -> str:
    """The stem for the name of a GGUF file without its suffix: `Model-{type}` for `Model-BF16`."""
    return f"{_TYPE.sub('', name.translate(_BRACES)) or 'model'}-{{type}}"


MAX_STEM_NBYTES = 150
"""Of a default name, without the type: file systems take 255 bytes, and the name is followed by the type, the
number of a shard and .gguf, and while the file is written it has more around it.
"""


def file_name(stem: str) -> str:
    """The file name for a stem: always a visible file in the current directory, with a name that file systems
    take.
    """
    safe = "".join("-" if c in "/\\:\0" or not c.isprintable() else c for c in stem)
    name, type_, rest = (safe.lstrip(".") or "model-{type}").partition("-{type}")
    return f"{cut(name, MAX_STEM_NBYTES)}{type_}{rest}.gguf"


def cut(text: str, max_nbytes: int) -> str:
    """The beginning of a text that has at most max_nbytes bytes in UTF-8."""
    return text.encode("utf-8", "surrogateescape")[:max_nbytes].decode("utf-8", "ignore")
