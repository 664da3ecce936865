"""Links in a checkpoint directory: where they may lead, as what is read here ends in a file that people
publish (H-011).

Configuration, tokenizer, template and model card are copied into the output. A link from them may lead to a
file of the same directory, or to where huggingface_hub keeps what it has downloaded:

    models--org--name/snapshots/REVISION/file -> ../../blobs/ETAG
    models--org--name/blobs/ETAG -> ../../blobs/xx/HASH      where the cache has a store for all repositories

Anything else has to be allowed by the user (`FollowedPath`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gguflow.errors import Finding, InvalidError
from gguflow.platform import storage_errors

REPOSITORY_PREFIX = "models--"
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MARKER, _MARKER_CONTENT = ".huggingface-shared-blobs", b"1\n"
_MAX_LINKS = 40


class FollowedPath(type(Path())):  # type: ignore[misc]
    """The path of a checkpoint whose links may lead anywhere, because the user allowed it.

    Paths made from it have this type too.
    """

    __slots__ = ()


def contained(directory: Path, name: str) -> Path:
    """The path directory / name, proved to stay inside the checkpoint with its links resolved (H-011).

    The directory itself may be reached through any link, because the user named it. A file that does not
    exist passes; opening it reports the error.

    directory: the checkpoint directory.
    name: the name of a file in it or below it.

    Raises InvalidError (H-011) if the file is outside.
    """
    path = directory / name
    root, target = (Path(os.path.realpath(p)) for p in (directory, path))
    is_below = not Path(name).anchor and ".." not in Path(name).parts
    if (
        (isinstance(directory, FollowedPath) and is_below)
        or target.is_relative_to(root)
        or _is_in_own_blobs(root, target)
        or _is_in_cache(path, target)
    ):
        return path
    message = (
        "a link that leaves the checkpoint directory, and what it leads to would be copied into the output; "
        "put the file itself there, or pass --follow-links (in Python follow_links=True) if it is meant"
    )
    expected = f"inside {root}, or in a Hugging Face cache"
    raise InvalidError(path, Finding("H-011", message, found=str(target), expected=expected))


def is_there(path: Path) -> bool:
    """Whether there is a file under this name. A link that leads to nothing is a file that is missing, and
    not one that the checkpoint does without.

    path: the path of the file.

    Raises InvalidError (H-019), StorageError.
    """
    with storage_errors("read", path):
        try:
            os.stat(path)
            return True
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.islink(path):
                return False
    message = (
        "a link to a file that does not exist, as an interrupted download or a cache that was cleared leaves "
        "it; fetch the file again, or remove the link if the checkpoint does without it"
    )
    raise InvalidError(path, Finding("H-019", message, found=os.path.realpath(path), expected="a file"))


def repository_id(directory: Path) -> str | None:
    """The id `org/name` of a snapshot in a Hugging Face cache; None for any other directory.

    directory: a checkpoint directory; of a snapshot, `models--org--name/snapshots/<revision>`.
    """
    snapshots = Path(os.path.realpath(directory)).parent
    if snapshots.name != "snapshots" or not snapshots.parent.name.startswith(REPOSITORY_PREFIX):
        return None
    return "/".join(part for part in snapshots.parent.name.split("--")[1:] if part) or None


def _is_in_own_blobs(root: Path, target: Path) -> bool:
    """Whether a file of a snapshot is in the blobs of its repository."""
    repository = root.parent.parent
    return (
        root.parent.name == "snapshots"
        and repository.name.startswith(REPOSITORY_PREFIX)
        and target.is_relative_to(repository / "blobs")
    )


def _is_in_cache(path: Path, target: Path) -> bool:
    """Whether the links from `path` come by a download of some repository, which is called after its digest;
    that may be a link itself only into the store of its cache. The directory `blobs` may be anywhere.
    """
    for step in _steps(str(path)):
        place, name = os.path.split(step)
        repository = os.path.realpath(os.path.dirname(place))
        if (
            _ETAG.fullmatch(name)
            and os.path.basename(place) == "blobs"
            and os.path.basename(repository).startswith(REPOSITORY_PREFIX)
        ):
            store = os.path.join(os.path.dirname(repository), "blobs")
            return not os.path.islink(step) or _is_in_store(store, target)
    return False


def _steps(path: str) -> Iterator[str]:
    """The path, and what it leads to link by link."""
    for _ in range(_MAX_LINKS):
        yield path
        with storage_errors("read", path):
            if not os.path.islink(path):
                return
            path = os.path.join(os.path.dirname(path), os.readlink(path))


def _is_in_store(store: str, target: Path) -> bool:
    """Whether a file is in the store that a cache has for all repositories: `xx/HASH` beside its marker."""
    marker = os.path.join(store, _MARKER)
    with storage_errors("read", marker):
        if os.path.islink(marker) or not os.path.isfile(marker):
            return False
        with open(marker, "rb") as file:
            if file.read(len(_MARKER_CONTENT) + 1) != _MARKER_CONTENT:
                return False
    parts = Path(os.path.relpath(target, os.path.realpath(store))).parts
    return len(parts) == 2 and _HASH.fullmatch(parts[1]) is not None and parts[0] == parts[1][:2]
