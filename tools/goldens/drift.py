"""Say what a newer peer does otherwise than the one that the golden file was made from.

Which model classes are new or gone, and which functions, methods and tables of conversion/*.py and gguf-py
differ, with the model classes that inherit or name them. What the golden file's peer was made of is in
fixtures/peer_digests.json: a digest of each syntax tree, without docstrings, comments and annotations.
`tools/compare peer --llama-cpp DIR $(tools/golden drift --peer DIR --names)` then shows what that changes.
Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from goldens.record import unpacked
from testing.golden.drift import DIGESTS, Digests, Source
from testing.golden.packed import Packed, class_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer", type=Path, metavar="PATH", help="llama.cpp's source tree, or an archive of llama-cpp-python"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="write fixtures/peer_digests.json from the archive that the golden file was made from: --peer, "
        "or $GGUFLOW_PEER_SDIST",
    )
    parser.add_argument(
        "--names", action="store_true", help="print only the affected classes that have a golden record"
    )


def run(arguments: argparse.Namespace) -> int:
    peer = arguments.peer or Path(os.environ.get("GGUFLOW_PEER_SDIST", ""))
    if not peer.exists() or peer == Path():
        sys.exit("drift: --peer names no tree and no archive")
    if arguments.record:
        return _record(peer, arguments.records)
    if peer.is_file():
        arguments.records.mkdir(parents=True, exist_ok=True)
        peer, _ = unpacked(peer, arguments.records)
    elif not (peer / "conversion").is_dir() and (peer / "vendor" / "llama.cpp").is_dir():
        peer = peer / "vendor" / "llama.cpp"
    try:
        source = Source(peer)
    except ValueError as error:
        sys.exit(f"drift: {error}")
    old = Digests.read(DIGESTS)
    new_names, gone = (
        sorted(set(a) - set(b)) for a, b in ((source.classes, old.classes), (old.classes, source.classes))
    )
    changes = list(source.changes(old))
    affected = {name for change in changes for name in change.classes} - set(new_names)
    recorded = set(map(class_of, Packed().names))
    if arguments.names:
        print("\n".join(sorted(affected & recorded)))
        return 1 if changes else 0
    for what, names in (("new", new_names), ("gone", gone)):
        for name in names:
            print(f"{what:8}{name}")
    for change in changes:
        shown = ", ".join(change.classes[:12])
        more = f", ... ({len(change.classes)})" if len(change.classes) > 12 else ""
        print(f"{change.kind:8}{change.file} {change.name}{f': {shown}{more}' if shown else ''}")
    print(
        f"against {old.peer}: {len(new_names)} new classes, {len(gone)} gone; {len(changes)} functions, "
        f"methods and tables differ; {len(affected)} of {len(old.classes)} classes are affected, of which "
        f"{len(affected & recorded)} have a golden record"
    )
    return 1 if changes else 0


def _record(archive: Path, records: Path) -> int:
    if not archive.is_file():
        sys.exit("drift: --record needs the archive, whose SHA-256 the golden records have")
    records.mkdir(parents=True, exist_ok=True)
    tree, sha256 = unpacked(archive, records)
    packed = Packed()
    others = {packed.record(name).about["sdist_sha256"] for name in packed.names} - {sha256}
    if others:
        sys.exit(f"drift: golden records were made from other archives: {', '.join(sorted(others))}")
    digests = Source(tree).digests(archive.name.removesuffix(".tar.gz"), sha256)
    digests.write(DIGESTS)
    n_entries = sum(map(len, digests.files.values()))
    print(f"{DIGESTS}: {len(digests.files)} files, {n_entries} digests, {DIGESTS.stat().st_size:,} bytes")
    return 0
