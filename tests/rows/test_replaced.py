"""A row store whose file is replaced or loses its name: no row that was flushed is lost unnoticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gguflow import conversion
from gguflow.container.metadata import string
from gguflow.container.output_file import OutputFile
from gguflow.editing import edit
from gguflow.errors import StorageError, UsageError
from gguflow.rows import RowStore
from testing.checkpoints import write_safetensors
from testing.row_stores import store_of, vectors


def test_a_row_store_that_is_written_to_is_not_replaced(tmp_path: Path) -> None:
    """R-120. The rows that its writer goes on to append and flush are there."""
    path = store_of(tmp_path / "rows.gguf", width=32)
    source = write_safetensors(tmp_path / "x.safetensors", {"a.weight": vectors(8, 64)})
    with RowStore(path, mode="a") as store:
        for work in (
            lambda: edit(path, [("a.b", string("c"))]),
            lambda: conversion.convert(source, path, type="q8_0", architecture="any", overwrite=True),
            lambda: RowStore(path, "q8_0", 32, overwrite=True),
        ):
            with pytest.raises(UsageError, match="another process is writing"):
                work()
        store.append(vectors(5, 32))
        assert store.flush() == 15
    edit(path, [("a.b", string("c"))])
    assert len(RowStore.open(path)) == 15


def test_nobody_writes_to_a_row_store_while_it_is_replaced(tmp_path: Path) -> None:
    path = store_of(tmp_path / "rows.gguf", width=32)
    with (
        OutputFile(path, 3, overwrite=True),
        pytest.raises(UsageError, match="another process is writing"),
    ):
        RowStore(path, mode="a")
    RowStore(path, mode="a").close()


@pytest.mark.parametrize("how", ["replaced", "moved", "removed"])
@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files under their names")
def test_a_flush_proves_that_the_rows_can_be_found(tmp_path: Path, how: str) -> None:
    """R-119."""
    path = store_of(tmp_path / "rows.gguf", width=32)
    store = RowStore(path, mode="a")
    store.append(vectors(5, 32))
    if how == "replaced":
        os.replace(store_of(tmp_path / "other.gguf", width=32), path)
    elif how == "moved":
        path.rename(tmp_path / "elsewhere.gguf")
    else:
        path.unlink()
    with pytest.raises(StorageError, match="not the file any more"):
        store.flush()
    with pytest.raises(StorageError, match="takes no more rows"):
        store.append(vectors(5, 32))
    store.close()


def test_a_flush_after_the_directory_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(tmp_path / "rows.gguf", width=32)
    monkeypatch.chdir(tmp_path)
    with RowStore("rows.gguf", mode="a") as store:
        monkeypatch.chdir("/")
        store.append(vectors(5, 32))
        assert store.flush() == 15
