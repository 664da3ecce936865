"""Children of fork: none of them takes a lock, a file or rows away from its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gguflow
from gguflow import conversion
from gguflow.container.output_file import OutputFile, hidden_sibling
from gguflow.conversion.journal import Journal
from gguflow.errors import UsageError
from gguflow.rows import RowStore
from testing.checkpoints import write_safetensors
from testing.row_stores import store_of, vectors

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def in_child(work: Callable[[], object]) -> str:
    """What `work` gave or raised in a child of fork, as text."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(send, said.encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as answers:
        said = answers.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return said


APPENDER = """
import sys
from gguflow.rows import RowStore
from gguflow.errors import UsageError
import numpy as np
try:
    with RowStore(sys.argv[1], mode="a") as store:
        store.append(np.ones((3, 32), np.float32))
        print(store.flush())
except UsageError as error:
    print(error)
"""


def from_another_process(path: Path) -> str:
    """What a process says that has nothing to do with us, and wants to append three rows."""
    command = [sys.executable, "-c", APPENDER, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def drop(store: list[RowStore]) -> None:
    store.clear()


CHILDREN: dict[str, tuple[Callable[[list[RowStore]], object], str]] = {
    "ends": (lambda stores: sys.exit(), "SystemExit"),
    "drops the store": (drop, "None"),
    "closes it": (lambda stores: stores[0].close(), "None"),
    "leaves its block": (lambda stores: stores[0].__exit__(None, None, None), "None"),
    "appends": (lambda stores: stores[0].append(vectors(5, 32)), "UsageError"),
    "flushes": (lambda stores: stores[0].flush(), "UsageError"),
    "reads": (lambda stores: len(stores[0].rows()), "11"),
}


@pytest.mark.parametrize("child", CHILDREN)
def test_a_store_of_the_parent(tmp_path: Path, child: str) -> None:
    """R-112: the lock stays, the rows of the parent are what is there, and nobody's are overwritten."""
    path, x = store_of(tmp_path / "rows.gguf", width=32), vectors(5, 32, 1)
    stores = [RowStore(path, mode="a")]
    stores[0].append(x[:1])
    work, said = CHILDREN[child]
    assert in_child(lambda: work(stores)).startswith(said)
    assert "another process is writing" in from_another_process(path)
    stores[0].append(x[1:])
    assert stores[0].flush() == 15
    stores[0].close()
    assert from_another_process(path) == "18"
    expected = gguflow.quantize(np.concatenate([vectors(10, 32), x, np.ones((3, 32), np.float32)]), "q8_0")
    np.testing.assert_array_equal(RowStore.open(path).raw(), expected)


def test_a_child_that_runs_to_its_end(tmp_path: Path) -> None:
    """With everything that Python does there: finalizers, what is registered for the exit."""
    program = (
        "import os, sys, numpy as np\n"
        "from gguflow.rows import RowStore\n"
        "store = RowStore(sys.argv[1], 'q8_0', 32)\n"
        "store.append(np.ones((8, 32), np.float32))\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait()\n"
        "input()\n"
        "print(store.flush()); store.close()\n"
    )
    path = tmp_path / "rows.gguf"
    command = [sys.executable, "-W", "ignore", "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        assert "another process is writing" in from_another_process(path)
        assert process.communicate("\n")[0] == "8\n"


def test_a_child_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Once the parent has closed the store, or finished the output, others may write."""
    path = store_of(tmp_path / "rows.gguf", width=32)
    store = RowStore(path, mode="a")
    with OutputFile(tmp_path / "out", 3) as output:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        output.commit()
    store.close()
    try:
        assert from_another_process(path) == "13"
        with OutputFile(tmp_path / "out", 3, overwrite=True) as output:
            output.commit()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


OUTPUTS: dict[str, Callable[[OutputFile], object]] = {
    "write": lambda output: output.write(b"x", 0),
    "clear": lambda output: output.clear(),
    "shorten": lambda output: output.shorten(0),
    "flush": lambda output: output.flush(),
    "commit": lambda output: output.commit(),
    "leave": lambda output: output.__exit__(None, None, None),
}


@pytest.mark.parametrize("work", OUTPUTS)
def test_an_output_of_the_parent(tmp_path: Path, work: str) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with OutputFile(out, 3, overwrite=True) as output:
        output.write(b"new", 0)
        said = in_child(lambda: OUTPUTS[work](output))
        assert said.startswith("None" if work == "leave" else "UsageError")
        with pytest.raises(UsageError, match="another process"):
            OutputFile(out, 3, overwrite=True).__enter__()
        output.commit()
    assert out.read_bytes() == b"new"


def test_a_journal_of_the_parent(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "binding")
    journal.open(fresh=True)
    journal.record_leaves({(0, 0): bytes(16)})
    assert in_child(lambda: journal.record_leaves({(0, 1): bytes(16)})).startswith("UsageError")
    assert in_child(lambda: journal.close(remove=True)) == "None"
    journal.close(remove=False)
    assert list(Journal(tmp_path / "journal", "binding").claims().leaves) == [(0, 0)]


@pytest.mark.parametrize("how", ["goes on", "fails", "ends"])
def test_a_child_of_a_conversion(tmp_path: Path, how: str) -> None:
    """Forked while leaves are written. The child gets no further, and takes neither the partial file nor the
    journal away.
    """
    rng = np.random.default_rng(0)
    tensors = {f"{i}.weight": rng.standard_normal((4097, 256)).astype(np.float32) for i in range(3)}
    source = write_safetensors(tmp_path / "x.safetensors", tensors)
    out, whole = tmp_path / "out.gguf", tmp_path / "whole.gguf"
    conversion.convert(source, whole, type="q8_0", architecture="any")
    parent, said = os.getpid(), tmp_path / "said"

    def progress(*event: object) -> None:
        if os.getpid() == parent and not said.exists():
            said.touch()
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                assert hidden_sibling(out, ".partial").exists()
                assert hidden_sibling(out, ".journal").exists()
            elif how != "goes on":
                raise (SystemExit if how == "ends" else ValueError)("in the child")

    def run() -> None:
        conversion.convert(source, out, type="q8_0", architecture="any", threads=1, progress=progress)

    try:
        run()
    except BaseException as error:
        if os.getpid() == parent:
            raise
        said.write_text(f"{type(error).__name__}: {error}")
        os._exit(0)
    if os.getpid() != parent:
        os._exit(1)
    expected = {"goes on": "UsageError", "fails": "ValueError", "ends": "SystemExit"}[how]
    assert said.read_text().startswith((expected, "UsageError"))  # the latter of the journal's last lines
    assert out.read_bytes() == whole.read_bytes()
