"""Output in several files: cut where gguf-split cuts, loadable by llama.cpp, each file proving itself, all or
none there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gguflow import conversion, validation
from gguflow.cli import main
from gguflow.cli.inspect import inspect_file
from gguflow.container.integrity import SHARDS_KEY
from gguflow.container.metadata import Value, ValueType, i32
from gguflow.container.output_file import OutputFile
from gguflow.container.shards import ShardName
from gguflow.conversion.splitting import Split
from gguflow.errors import UsageError
from testing import llama_cpp
from testing.checkpoints import TINY, tiny_llama
from testing.gguf_files import tensors_of


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "checkpoint")


def convert(source: Path, output: Path, shards: Split | None, kind: str = "q8_0") -> tuple[Path, ...]:
    return conversion.convert(source, output, type=kind, shards=shards).files


@pytest.mark.parametrize(
    ("how", "counts"),
    [
        (Split(max_tensors=8), [8, 8, 5]),
        (Split(max_tensors=7), [7, 7, 7]),
        (Split(max_tensors=100), [21]),
        (Split(max_tensors=15, is_first_empty=True), [0, 15, 6]),
        (
            Split(max_nbytes=300_000),
            [2, 7, 12],
        ),  # two matrices of 4096 x 64 come first: 278528 bytes each, and a norm between
        (Split(max_nbytes=278_528), [1, 1, 1, 18]),
        (Split(max_nbytes=1), [1] * 21),
        (Split(max_nbytes=10**9), [21]),
    ],
    ids=str,
)
def test_the_shards_are_the_file(tmp_path: Path, llama: Path, how: Split, counts: list[int]) -> None:
    """The same tensors in the same order; keys and names as gguf-split has them; metadata in the first; every
    file keeps the rules.
    """
    files = convert(llama, tmp_path / "model.gguf", how)
    (whole,) = convert(llama, tmp_path / "whole.gguf", None)
    assert [path.name for path in files] == [
        f"model-{i + 1:05d}-of-{len(counts):05d}.gguf" for i in range(len(counts))
    ]
    assert [len(tensors_of(path)) for path in files] == counts
    assert [item for path in files for item in tensors_of(path).items()] == list(tensors_of(whole).items())
    headers = [inspect_file(path) for path in files]
    for number, header in enumerate(headers):
        assert header.metadata["split.no"] == Value(ValueType.UINT16, number)
        assert header.metadata["split.count"] == Value(ValueType.UINT16, len(counts))
        assert header.metadata["split.tensors.count"] == i32(21)
        assert {key.split(".")[0] for key in header.metadata if number} <= {"split", "gguflow"}
    expected = inspect_file(whole).metadata
    assert [key for key in headers[0].metadata if not key.startswith(("split.", "gguflow."))] == [
        k for k in expected if not k.startswith("gguflow.")
    ]
    assert len({header.metadata[SHARDS_KEY].value for header in headers}) == 1
    for path in files:
        assert not [
            finding for finding in validation.validate(path, level="values") if finding.severity == "error"
        ]


def test_the_id_of_the_shards_is_that_of_their_weights(tmp_path: Path) -> None:
    """Other weights, or the same again: another id, or the same."""
    ids: list[str] = []
    for seed in (0, 1, 0):
        source = tiny_llama(tmp_path / f"checkpoint{len(ids)}", seed=seed)
        first = convert(source, tmp_path / f"model{len(ids)}.gguf", Split(max_tensors=10))[0]
        ids.append(inspect_file(first).metadata[SHARDS_KEY].value)
    assert ids[0] == ids[2] != ids[1]


def test_merging_gives_the_file_back(tmp_path: Path, llama: Path) -> None:
    """Split, merged, and split again: always the same tensors and the same metadata."""
    files = convert(llama, tmp_path / "model.gguf", Split(max_tensors=4, is_first_empty=True), "q4_k_m")
    (merged,) = convert(files[0], tmp_path / "merged.gguf", None, "copy")
    (whole,) = convert(llama, tmp_path / "whole.gguf", None, "q4_k_m")
    assert tensors_of(merged) == tensors_of(whole)
    a, b = (dict(inspect_file(path).metadata) for path in (merged, whole))
    assert [key for key in a if not key.startswith("gguflow.")] == [
        key for key in b if not key.startswith("gguflow.")
    ]
    assert a["general.file_type"] == b["general.file_type"]
    again = convert(merged, tmp_path / "again.gguf", Split(max_tensors=4, is_first_empty=True), "copy")
    assert [tensors_of(path) for path in again] == [tensors_of(path) for path in files]


def test_llama_cpp_loads_the_shards(tmp_path: Path) -> None:
    files = convert(TINY, tmp_path / "tiny.gguf", Split(max_nbytes=2_000_000))
    (whole,) = convert(TINY, tmp_path / "whole.gguf", None)
    assert len(files) > 2
    prompt = "import os\nimport sys\n\ndef "
    assert llama_cpp.complete(str(files[0]), prompt, 16) == llama_cpp.complete(str(whole), prompt, 16)


def test_several_types_are_split_each_by_its_sizes(tmp_path: Path, llama: Path) -> None:
    prepared = conversion.prepare(
        llama, tmp_path / "m-{type}.gguf", type="q8_0,f32", shards=Split(max_nbytes=300_000)
    )
    reports = conversion.run(prepared, threads=3)
    assert [len(report.files) for report in reports] == [3, 4]
    for report in reports:
        (single,) = convert(llama, tmp_path / f"single-{report.recipe}.gguf", None, report.recipe)
        assert [item for path in report.files for item in tensors_of(path).items()] == list(
            tensors_of(single).items()
        )
        assert report.nbytes == sum(path.stat().st_size for path in report.files)


def test_the_command_line(tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "convert",
        str(llama),
        "-t",
        "q8_0",
        "-o",
        str(tmp_path / "model.gguf"),
        "--split-max-size",
        "300K",
    ]
    assert main([*command, "--dry-run", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert main([*command, "-q"]) == 0
    shown = capsys.readouterr().out.split()
    assert [Path(path).stat().st_size for path in shown] == [plan["nbytes"] for plan in plans]
    assert main([*command, "--json", "-q", "--overwrite"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == shown and report["output"] == shown[0]


BAD_CALLS = {
    "both limits": (
        ["--split-max-size", "1G", "--split-max-tensors", "3"],
        "either --split-max-size or --split-max-tensors",
    ),
    "no limit": (["--no-tensor-first-split"], "either --split-max-size or --split-max-tensors"),
    "no room": (["--split-max-size", "0"], "1 or more"),
    "no tensors": (["--split-max-tensors", "-1"], "1 or more"),
    "no size": (["--split-max-size", "2T"], "not a size: '2T'"),
}


@pytest.mark.parametrize(("options", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls(llama: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(llama), "--dry-run", *options]) == 2
    assert message in capsys.readouterr().err


def test_too_many_shards(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gguflow.conversion.splitting.MAX_SHARDS", 20)
    with pytest.raises(UsageError, match="21 shards are more than a model can have"):
        conversion.prepare(llama, type="q8_0", shards=Split(max_tensors=1))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_name_that_is_taken_stops_all(tmp_path: Path, llama: Path, number: int) -> None:
    taken = tmp_path / f"model-{number:05d}-of-00003.gguf"
    taken.write_bytes(b"precious")
    with pytest.raises(UsageError, match=f"{taken.name} exists"):
        convert(llama, tmp_path / "model.gguf", Split(max_tensors=8))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [taken.name]
    assert taken.read_bytes() == b"precious"


def test_nothing_is_named_before_all_is_whole(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first file gets its name, all are flushed; the first shard is the last to get it."""
    flush, commit = OutputFile.flush, OutputFile.commit
    order: list[ShardName | None] = []

    def flushed(file: OutputFile) -> None:
        assert not list(tmp_path.glob("*.gguf")) or order
        flush(file)

    def committed(file: OutputFile) -> None:
        if not order:
            assert len(list(tmp_path.glob(".*.partial"))) == 3
        order.append(ShardName.of(file.path))
        commit(file)

    monkeypatch.setattr(OutputFile, "flush", flushed)
    monkeypatch.setattr(OutputFile, "commit", committed)
    convert(llama, tmp_path / "model.gguf", Split(max_tensors=8))
    assert [name.number for name in order if name] == [2, 1, 0]


def test_an_interrupted_split_goes_on(tmp_path: Path) -> None:
    """kill -9, then again: the same bytes as in one go, and leaves of all shards were kept."""
    source = tiny_llama(tmp_path / "checkpoint", hidden=1024, ffn=2816, n_layers=8, dtype="bfloat16")
    (tmp_path / "out").mkdir()
    command = [
        sys.executable,
        "-m",
        "gguflow",
        "convert",
        str(source),
        "-t",
        "q4_k_m",
        "--split-max-tensors",
        "20",
        "--threads",
        "1",
        "-o",
    ]
    out = tmp_path / "out" / "model.gguf"
    process = subprocess.Popen([*command, str(out), "-q"])
    while (
        process.poll() is None and sum(path.stat().st_size for path in out.parent.glob(".*.journal")) < 3000
    ):
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(out.parent.glob("*.gguf"))
    done = subprocess.run([*command, str(out), "-q", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["resumed_nbytes"] > 0
    for path in convert(source, tmp_path / "model.gguf", Split(max_tensors=20), "q4_k_m"):
        assert path.read_bytes() == (out.parent / path.name).read_bytes()
    assert not list(out.parent.glob(".*"))
