"""The table of the intended differences from llama.cpp, and the collector of those that applied."""

from __future__ import annotations

import re

import pytest

from gguflow.models.differences import DIFFERENCES, Applied, Difference, Scope, by_id


def test_ids_are_words_and_unique() -> None:
    ids = [difference.id for difference in DIFFERENCES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", identifier) for identifier in ids)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.id)
def test_a_row_is_whole(difference: Difference) -> None:
    """What is in a file says where in it; what is in none excuses nothing; all texts are one line."""
    assert bool(difference.keys or difference.tensors) == (difference.scope is not Scope.NO_FILE)
    for text in (difference.condition, difference.ours, difference.peer, difference.reason):
        assert text and "\n" not in text and "|" not in text
    assert difference.reason.endswith(".") and not difference.condition.endswith(".")


def test_a_row_covers_whole_names() -> None:
    own = by_id("own-keys")
    assert own.covers("gguflow.recipe")
    assert not own.covers("general.gguflow.recipe") and not own.covers("gguflow")
    assert not by_id("non-finite").covers("")


def test_what_applied_is_kept_once_and_must_be_a_row_of_checkpoints() -> None:
    with pytest.raises(KeyError):
        Applied().add("no-such-difference")
    with pytest.raises(KeyError):
        Applied().add("own-keys")
