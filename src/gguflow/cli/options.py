"""Options that several commands have, and the values and files that options name."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from gguflow.arguments import MAX_SIZE, shown
from gguflow.errors import UsageError

_MAX_TEXT_NBYTES = 1 << 30


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add --threads."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of threads (default: all processors)"
    )


def add_io(parser: argparse.ArgumentParser) -> None:
    """Add --io."""
    parser.add_argument(
        "--io",
        choices=("mmap", "pread"),
        default="mmap",
        help="how files are read; with pread, a file that is truncated while it is read is an error, "
        "not a crash (default: %(default)s)",
    )


def add_follow_links(parser: argparse.ArgumentParser) -> None:
    """Add --follow-links."""
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="read configuration, tokenizer and model card also through links that leave the checkpoint's "
        "directory; without it, only into a Hugging Face cache, as their content may be published with the "
        "output. Weights may be links anyway",
    )


def parse_size(text: str, kilo: int = 1024) -> int:
    """A size in bytes.

    text: a number, or one with K, M or G ("192M", "192MiB").
    kilo: what K stands for.
    Raises UsageError.
    """
    written = text.strip().upper().removesuffix("IB").removesuffix("B")
    match = re.fullmatch(r"0*([0-9]{1,20})([KMG]?)", written)
    nbytes = int(match[1]) * int(kilo ** " KMG".index(match[2] or " ")) if match else 0
    if match is None or nbytes > MAX_SIZE:
        raise UsageError(
            f"not a size: {shown(text)}; give a number of bytes, or a number with K, M or G (192M), "
            "less than 2**63 bytes"
        )
    return nbytes


def read_text(path: str) -> str:
    """A text file as it is, line ends included.

    path: a regular file in UTF-8, of at most 1 GiB.
    Raises UsageError, StorageError.
    """
    from gguflow.platform import read_regular

    try:
        return read_regular(path, _MAX_TEXT_NBYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from error


def print_json(*results: Any) -> None:
    """Print one result as it is, several as a list.

    results: JSON-ready data.
    """
    print(json.dumps(results[0] if len(results) == 1 else results, indent=2))
