"""Which weights of a directory are converted, what is said about it, and what is said to somebody who named
something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gguflow import conversion
from gguflow.errors import FileError, InvalidError, StorageError, UnsupportedError, gathered_warnings
from gguflow.sources import open_checkpoint
from testing.checkpoints import tiny_llama
from testing.source_files import safetensors_bytes, weights, write_checkpoint

Make = Callable[[Path], object]


def files(*names: str, indexes: tuple[str, ...] = (), config: object = ()) -> Make:
    """Make a directory of these files of weights: a, b, ... for the first file, x for all that are called
    otherwise. indexes: made for the shards that have their stem.
    """

    def make(directory: Path) -> None:
        write_checkpoint(directory, {}, config=config)
        tensors = dict(zip(names, "abcdefgh", strict=False))
        for name, tensor in tensors.items():
            (directory / name).write_bytes(safetensors_bytes(weights(tensor)))
        for index in indexes:
            stem, variant = index.removesuffix(".json").split(".safetensors.index")
            named = {
                tensor: name
                for name, tensor in tensors.items()
                if re.sub(r"-\d{5}-of-\d{5}", "", name) == f"{stem}{variant}.safetensors"
            }
            (directory / index).write_text(json.dumps({"weight_map": named}))

    return make


M1, M2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
V1, V2 = "model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"
O1, O2 = "model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"
C1, C2 = "consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"
X1, X2 = "x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"
INDEX, VARIANT = "model.safetensors.index.json", "model.safetensors.index.fp16.json"
OLD_VARIANT = "model.fp16.safetensors.index.json"
COPY = "consolidated.safetensors.index.json"

CHOSEN: dict[str, tuple[Make, str, str]] = {
    "one file": (files("model.safetensors"), "a", ""),
    "shards": (files(M1, M2, indexes=(INDEX,)), "ab", ""),
    "shards without index": (files(M1, M2), "ab", "no index"),
    "shards of another name without index": (
        files("x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"),
        "ab",
        "no index",
    ),
    "one shard of one": (files("model-00001-of-00001.safetensors"), "a", ""),
    "Mistral's copy with its index": (files(M1, M2, C1, C2, indexes=(INDEX, COPY)), "ab", COPY),
    "Mistral's copy without index": (files(M1, M2, C1, C2, indexes=(INDEX,)), "ab", C1),
    "Mistral's copy in one file": (
        files("model.safetensors", "consolidated.safetensors"),
        "a",
        "consolidated",
    ),
    "Mistral's copy alone": (files(C1, C2, indexes=(COPY,)), "ab", ""),
    "variant in shards": (files(V1, V2, indexes=(VARIANT,)), "ab", ""),
    "variant in shards, of older releases": (files(O1, O2, indexes=(OLD_VARIANT,)), "ab", ""),
    "variant in shards without index": (files(V1, V2), "ab", "no index"),
    "variant in one file": (files("model.fp16.safetensors"), "a", ""),
    "variant beside": (files(M1, M2, V1, V2, indexes=(INDEX, VARIANT)), "ab", VARIANT),
    "variant in shards beside one file": (
        files("model.safetensors", V1, V2, indexes=(VARIANT,)),
        "a",
        VARIANT,
    ),
    "adapter beside": (files("model.safetensors", "adapter_model.safetensors"), "a", "adapter_model"),
}


@pytest.mark.parametrize(("make", "names", "says"), CHOSEN.values(), ids=CHOSEN)
def test_the_sound_choice_is_made_and_said(make: Make, names: str, says: str, tmp_path: Path) -> None:
    make(tmp_path)
    with gathered_warnings() as warnings:
        checkpoint = open_checkpoint(tmp_path)
    assert "".join(checkpoint.tensors) == names
    assert [warning.finding.rule for warning in warnings] == (["H-018"] if says else [])
    assert says in "".join(map(str, warnings))


UNCLEAR: dict[str, tuple[Make, str, str]] = {
    "two variants": (files("model.fp16.safetensors", "model.bf16.safetensors"), "H-005", "name the one"),
    "two variants in shards": (
        files(V1, V2, indexes=(VARIANT, "model.safetensors.index.bf16.json")),
        "H-005",
        VARIANT,
    ),
    "two models": (files("a.safetensors", "b.safetensors"), "H-005", "a.safetensors"),
    "shards and a file": (files(M1, M2, "model.safetensors"), "H-005", "remove all but one"),
    "a shard missing": (
        files("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"),
        "H-006",
        "model-00002-of-00003",
    ),
    "many shards missing": (files("model-00001-of-99999.safetensors"), "H-006", "99998 of 99999"),
    "an index of nothing": (
        files(V1, V2, indexes=("model.safetensors.index.bf16.json",)),
        "H-009",
        "weight_map",
    ),
}


@pytest.mark.parametrize(("make", "rule", "says"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_not_clear_is_refused(make: Make, rule: str, says: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InvalidError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.finding.rule == rule and says in str(caught.value)


def test_a_tensor_in_two_shards_without_index(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {M1: weights("a"), M2: weights("a")})
    with pytest.raises(InvalidError, match="H-014"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("index", [INDEX, VARIANT, OLD_VARIANT])
def test_an_index_that_is_named_itself(index: str, tmp_path: Path) -> None:
    shards = {INDEX: (M1, M2), VARIANT: (V1, V2), OLD_VARIANT: (O1, O2)}[index]
    files(*shards, indexes=(index,), config=None)(tmp_path)
    assert "".join(open_checkpoint(tmp_path / index).tensors) == "ab"


def snapshots(directory: Path) -> None:
    for revision in ("aaa", "bbb"):
        write_checkpoint(directory / "snapshots" / revision, {})
    (directory / "refs").mkdir()
    (directory / "refs" / "main").write_text("bbb")


def adapter(directory: Path) -> None:
    files("adapter_model.safetensors", config=None)(directory)
    (directory / "adapter_config.json").write_text("{}")


def pipeline(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "model_index.json").write_text("{}")
    write_checkpoint(directory / "transformer", {})


def mistral(directory: Path) -> None:
    files("consolidated.safetensors", config=None)(directory)
    (directory / "params.json").write_text("{}")


def only(name: str) -> Make:
    def make(directory: Path) -> None:
        write_checkpoint(directory, {}, config=None)
        (directory / name).write_bytes(b"")

    return make


def pytorch(directory: Path) -> None:
    write_checkpoint(directory, {})
    (directory / "pytorch_model.bin").write_bytes(b"")


def blobs(directory: Path) -> None:
    write_checkpoint(directory, {}, config=None)
    snapshots(directory.parent)


def unfinished(directory: Path) -> None:
    write_checkpoint(directory, {})
    (directory / "model.safetensors.incomplete").write_bytes(b"")


ADVICE: dict[str, tuple[str, Make, str, list[str]]] = {
    "an adapter": ("lora", adapter, "H-016", ["merge"]),
    "an adapter with a config": ("lora", files("adapter_model.safetensors"), "H-016", ["merge"]),
    "a repository of the cache": ("models--o--n", snapshots, "H-001", ["snapshots/bbb", "snapshots/aaa"]),
    "the cache": ("hub", lambda d: snapshots(d / "models--o--n"), "H-001", ["models--o--n/snapshots/bbb"]),
    "a pipeline": ("flux", pipeline, "H-001", ["pipeline", "transformer"]),
    "checkpoints in it": ("all", lambda d: write_checkpoint(d / "one", {}), "H-001", ["one"]),
    "Mistral's own form": ("mistral", mistral, "H-001", ["params.json", "model*.safetensors"]),
    "an index": ("x", files(M1, M2, indexes=(INDEX,), config=None), "H-001", [INDEX, "--arch"]),
    "shards without index": ("x", files(M1, M2, config=None), "H-001", [M1, "--arch"]),
    "a file": ("x", files("a.safetensors", config=None), "H-001", ["a.safetensors", "--arch"]),
    "a GGUF file": ("x", only("a.gguf"), "H-001", ["a.gguf"]),
    "nothing": ("x", only("README.md"), "H-001", ["checkpoint directory"]),
    "the contents of the cache": (
        "models--o--n/blobs",
        blobs,
        "H-001",
        ["snapshots/bbb"],
    ),
    "a download that was stopped": ("x", unfinished, "H-004", [".incomplete", "download it again"]),
    "PyTorch's files": ("x", pytorch, "H-004", [".bin", "save it again"]),
}


@pytest.mark.parametrize(("name", "make", "rule", "says"), ADVICE.values(), ids=ADVICE)
def test_what_to_name_instead(name: str, make: Make, rule: str, says: list[str], tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises((InvalidError, UnsupportedError)) as caught:
        open_checkpoint(tmp_path / name)
    assert caught.value.finding.rule == rule
    places = [str(caught.value).find(word) for word in says]
    assert -1 not in places and places == sorted(places)


def test_the_id_of_a_model_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(StorageError, match="hf download org/name"):
        open_checkpoint("org/name")
    snapshots(tmp_path / "hub" / "models--org--name")
    with pytest.raises(StorageError, match="models--org--name/snapshots/bbb"):
        open_checkpoint("org/name")
    for path in ("missing", "../org/name", "a/b/c", "org/name.gguf"):
        with pytest.raises(StorageError) as caught:
            open_checkpoint(path)
        assert "Hub" not in str(caught.value)


@pytest.mark.parametrize(
    "named",
    [
        "https://huggingface.co/org/name",
        "http://www.huggingface.co/org/name/tree/main",
        "https://hf.co/org/name/resolve/main/model.safetensors",
        "huggingface.co/org/name/",
        "hf://org/name",
        "org/name@main",
        "org/name:Q4_K_M",
    ],
)
def test_the_id_of_a_model_as_users_write_it(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(StorageError, match="hf download org/name --local-dir name"):
        open_checkpoint(named)
    snapshots(tmp_path / "hub" / "models--org--name")
    with pytest.raises(StorageError, match="models--org--name/snapshots/bbb"):
        open_checkpoint(named)


def test_an_id_of_one_word_is_one_if_it_was_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(StorageError, match=r"no such file or directory$"):
        open_checkpoint("gpt2")
    snapshots(tmp_path / "hub" / "models--gpt2")
    with pytest.raises(StorageError, match="models--gpt2/snapshots/bbb"):
        open_checkpoint("gpt2")


LONE: dict[str, tuple[Make, str, str]] = {
    "its index": (files(M1, M2, indexes=(INDEX,), config=None), M1, INDEX),
    "its directory": (files(M1, M2, indexes=(INDEX,)), M2, "name the directory"),
    "the first": (files(M1, M2, config=None), M2, "name the first shard"),
    "the rest": (files(M1, config=None), M1, "are missing"),
    "the index of a variant": (files(V1, V2, indexes=(VARIANT,), config=None), V1, VARIANT),
}


@pytest.mark.parametrize(("make", "name", "says"), LONE.values(), ids=LONE)
def test_one_shard_is_not_the_model(make: Make, name: str, says: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(FileError) as caught:
        conversion.prepare(tmp_path / name, architecture="aura")
    assert caught.value.finding.rule == "H-017"
    assert f"shard {name[-18]} of 2" in str(caught.value) or "of 2" in str(caught.value)
    assert says in str(caught.value)
    assert len(open_checkpoint(tmp_path / name).tensors) == 1  # it may be compared, for example


def test_the_first_shard_without_index_stands_for_all(tmp_path: Path) -> None:
    files(M1, M2, config=None)(tmp_path)
    prepared = conversion.prepare(tmp_path / M1, architecture="aura", type="f32")
    assert [tensor.name for tensor in prepared.targets[0].plans[0].tensors] == ["a", "b"]
    assert [warning.finding.rule for warning in prepared.warnings] == ["H-018"]


def test_a_snapshot_is_called_after_its_repository(tmp_path: Path) -> None:
    snapshot = tiny_llama(tmp_path / "models--org--Tiny-Model" / "snapshots" / ("0123456789" * 4))
    name = conversion.prepare(snapshot, type="q8_0").targets[0].paths[0].name
    assert name.startswith("Tiny-Model") and "0123" not in name
    bare = conversion.prepare(snapshot, type="q8_0", architecture="x")
    assert bare.targets[0].paths[0].name == "Tiny-Model-Q8_0.gguf"
    assert bare.targets[0].plans[0].metadata["general.name"].value == "Tiny-Model"
