"""Compares two models tensor by tensor: how far the weights of one are from those of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gguflow.arguments import callback, choice, file_path, flag
from gguflow.comparison.measures import Operand, TensorMeasures, measure
from gguflow.comparison.sides import Side, pairs
from gguflow.container.header import without_leading_ones
from gguflow.container.mapped_file import IO_MODES
from gguflow.errors import UsageError
from gguflow.models.reading import ModelReader
from gguflow.threads import resolve as resolve_threads

__all__ = ["Comparison", "TensorComparison", "TensorMeasures", "compare"]

Progress = Callable[[int, int], None]
"""Called after each tensor with the number of tensors done and the number of all."""


@dataclass(frozen=True)
class TensorComparison:
    """One tensor that both models have; bytes are those of all its parts in the files."""

    name: str
    shape: tuple[int, ...]
    formats: tuple[str, str]
    nbytes: tuple[int, int]
    measures: TensorMeasures


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models.

    a, b: the models.
    tensors: in both, in the order of a.
    only_a, only_b: names of tensors that only one has.
    other_shape: names of tensors whose shapes differ.
    total: measures of all compared tensors together, without worst rows.
    """

    a: Path
    b: Path
    tensors: tuple[TensorComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_shape: tuple[str, ...]
    total: TensorMeasures


def compare(
    a: str | Path,
    b: str | Path,
    *,
    threads: int | None = None,
    io: str = "mmap",
    follow_links: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the weights of b with those of a, which are the reference.

    Memory is bounded: tiles, and two numbers for each row of a tensor. Results do not depend on threads.

    a, b: GGUF files (the first of several shards), checkpoint directories, indexes or .safetensors files. If
        one of them is a bare .safetensors file, names are those of transformers, otherwise those of GGUF.
    threads: number of threads; None for all processors.
    io: how files are read: "mmap" or "pread".
    follow_links: whether configuration and tokenizer of a checkpoint may be links to anywhere.
    progress: called after each tensor.

    Raises UsageError (nothing in common), FileError, StorageError.
    """
    threads = resolve_threads(threads)
    choice(io, "io", IO_MODES)
    flag(follow_links, "follow_links")
    callback(progress, "progress")
    a, b = file_path(a, "a"), file_path(b, "b")
    sides = Side.open(a, follow_links), Side.open(b, follow_links)
    left, right = pairs(*sides)
    common = [name for name in left if name in right]
    comparable = [
        name
        for name in common
        if without_leading_ones(left[name].shape) == without_leading_ones(right[name].shape)
    ]
    if not comparable:
        raise UsageError(
            f"{a} and {b} have no tensor in common: the first has {next(iter(left), 'none')}, "
            f"the second {next(iter(right), 'none')}"
        )
    compared = []
    with ModelReader(sides[0].checkpoint, io) as reader_a, ModelReader(sides[1].checkpoint, io) as reader_b:
        operands = [(Operand(reader_a, left[name]), Operand(reader_b, right[name])) for name in comparable]
        for i, (name, measures) in enumerate(zip(comparable, measure(operands, threads), strict=True)):
            x, y = left[name], right[name]
            formats = x.sources[0].format_name, y.sources[0].format_name
            nbytes = sum(part.nbytes for part in x.sources), sum(part.nbytes for part in y.sources)
            compared.append(TensorComparison(name, x.shape, formats, nbytes, measures))
            if progress is not None:
                progress(i + 1, len(comparable))
        reader_a.check_unchanged()
        reader_b.check_unchanged()
    return Comparison(
        a=a,
        b=b,
        tensors=tuple(compared),
        only_a=tuple(name for name in left if name not in right),
        only_b=tuple(name for name in right if name not in left),
        other_shape=tuple(name for name in common if name not in set(comparable)),
        total=sum((tensor.measures for tensor in compared), TensorMeasures()),
    )
