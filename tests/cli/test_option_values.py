"""Values of options that nobody means: exit status 2 and a line that says what is meant, in no time."""

from __future__ import annotations

from pathlib import Path

import pytest

import gguflow
from gguflow.cli import main
from gguflow.cli.options import parse_size
from gguflow.errors import UsageError
from testing.checkpoints import TINY

DIGITS = "9" * 5000
SURROGATE = "\udcff"

CONVERT: dict[str, tuple[list[str], str]] = {
    "split size, 5000 digits": (["--split-max-size", DIGITS], "not a size: '999"),
    "split size, exponent": (["--split-max-size", "1e400"], "not a size: '1e400'"),
    "split size, negative": (["--split-max-size=-1"], "not a size: '-1'"),
    "split size, beyond 2**63": (["--split-max-size", "9999999999G"], "less than 2**63 bytes"),
    "split size, Arabic digits": (["--split-max-size", "٣"], "not a size"),
    "split size, nothing": (["--split-max-size", ""], "not a size: ''"),
    "split size, zero": (["--split-max-size", "0"], "1 or more"),
    "split tensors, 4000 digits": (["--split-max-tensors", "9" * 4000], "max_tensors must be an integer"),
    "split tensors, 5000 digits": (["--split-max-tensors", DIGITS], "invalid int value"),
    "memory, 5000 digits": (["--memory-limit", DIGITS], "not a size: '999"),
    "memory, exponent": (["--memory-limit", "1e400"], "not a size"),
    "memory, negative": (["--memory-limit=-1M"], "not a size"),
    "memory, zero": (["--memory-limit", "0"], "is too small"),
    "threads, 4000 digits": (["--threads", "9" * 4000], "threads must be an integer from 1 to"),
    "threads, negative": (["--threads", "-1"], "threads must be an integer from 1 to"),
    "pattern, a large count": (
        ["--tensor-type", "a{99999999999}=q4_k"],
        "the repetition number is too large",
    ),
    "pattern, 3000 brackets": (
        ["--tensor-type", "(" * 3000 + ")" * 3000 + "=q4_k"],
        "at most 1000 characters",
    ),
    "pattern, a back-reference": (["--tensor-type", r"(a)\1=q4_k"], "a back-reference"),
    "pattern, nothing": (["--tensor-type", "=q4_k"], "REGEX=FORMAT"),
    "pattern, a misspelt format": (["--tensor-type", "a=q4_kk"], "did you mean q4_k?"),
    "pattern, matches nothing": (["--tensor-type", "(a+)+zzz=q4_k"], "matches no tensor"),
    "skipped, a large count": (["--skip-tensor", "a{99999999999}"], "the repetition number is too large"),
    "skipped, 3000 brackets": (["--skip-tensor", "(" * 3000 + ")" * 3000], "at most 1000 characters"),
    "skipped, explosive": (["--skip-tensor", "(a+|w+|.)+zzz"], "matches no tensor"),
    "a name that is empty": (["--model-name", ""], "a text that is not empty"),
    "a name that is no text": (["--model-name", SURROGATE], "must be Unicode text"),
    "override, int of 5000 digits": (["--override-kv", f"a.b=int:{DIGITS}"], "from 0 to 4294967295"),
    "override, negative": (["--override-kv", "a.b=int:-1"], "from 0 to 4294967295"),
    "override, Arabic digits": (["--override-kv", "a.b=int:٣"], "from 0 to 4294967295"),
    "override, float of 5000 digits": (["--override-kv", f"a.b=float:{DIGITS}"], "is not a number"),
    "override, beyond any float": (["--override-kv", "a.b=float:1e400"], "must be finite and fit F32"),
    "override, beyond F32": (["--override-kv", "a.b=float:3.5e38"], "must be finite and fit F32"),
    "override, NaN": (["--override-kv", "a.b=float:nan"], "is not a number"),
    "override, bool": (["--override-kv", "a.b=bool:yes"], "must be true or false"),
    "override, a misspelt type": (["--override-kv", "a.b=flaot:1"], "did you mean float?"),
    "override, a long key": (["--override-kv", "k" * 70_000 + "=int:1"], "a key has at most 65535 bytes"),
    "override, bytes that are no text": (["--override-kv", f"a.b=str:{SURROGATE}"], "surrogates not allowed"),
    "override, a key that is no text": (["--override-kv", f"{SURROGATE}=int:1"], "surrogates not allowed"),
    "type, 100,000 items": (["-t", "sb:" + "bits=3," * 100_000], "a type is a name"),
    "type, misspelt": (["-t", "q4_mk"], "did you mean q4_k"),
    "embeddings, misspelt": (["--token-embedding-type", "q8"], "unknown block format 'q8'"),
    "output tensor, NUL": (["--output-tensor-type", "q8_0\0"], "unknown block format 'q8_0\\x00'"),
    "imatrix, NUL": (["--imatrix", "a\0b"], "NUL"),
}


@pytest.mark.parametrize(("options", "message"), CONVERT.values(), ids=CONVERT)
def test_convert(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(TINY), "-o", str(tmp_path / "out.gguf"), "-t", "q8_0", *options]
    try:
        status = main(arguments)
    except SystemExit as error:  # argparse
        status = int(str(error.code))
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguflow.convert(TINY, tmp_path_factory.mktemp("model") / "model.gguf", type="q8_0").output


RUN: dict[str, tuple[list[str], str]] = {
    "temperature, NaN": (["--temperature", "nan"], "temperature must be a number"),
    "temperature, infinite": (["--temperature", "inf"], "temperature must be a number"),
    "temperature, negative": (["--temperature", "-1"], "temperature must be a number"),
    "top-k, huge": (["--temperature", "1", "--top-k", "9" * 4000], "top_k must be an integer"),
    "top-k, negative": (["--temperature", "1", "--top-k", "-1"], "top_k must be an integer"),
    "top-p, NaN": (["--temperature", "1", "--top-p", "nan"], "top_p must be a number"),
    "top-p, zero": (["--temperature", "1", "--top-p", "0"], "top_p must be above 0"),
    "min-p, two": (["--temperature", "1", "--min-p", "2"], "min_p must be a number"),
    "seed, negative": (["--temperature", "1", "--seed", "-1"], "seed must be an integer"),
    "seed, huge": (["--temperature", "1", "--seed", "9" * 4000], "seed must be an integer"),
    "threads, zero": (["--threads", "0"], "threads must be an integer from 1 to"),
}


@pytest.mark.parametrize(("options", "message"), RUN.values(), ids=RUN)
def test_run(options: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(model), "-p", "def", "-n", "2", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_temperature_near_zero_is_greedy(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for options in ([], ["--temperature", "1e-300"], ["--temperature", "1e-45", "--top-k", "0"]):
        assert main(["run", str(model), "-p", "def", "-n", "8", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1


SIZES = {
    "0": 0,
    "12": 12,
    "3K": 3072,
    "192M": 192 << 20,
    "192MiB": 192 << 20,
    " 1g ": 1 << 30,
    "00000000000000000000007": 7,
}


@pytest.mark.parametrize(("text", "nbytes"), SIZES.items(), ids=SIZES)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "K", "1.5G", "1T", "1 0", "+1", "1_0", "9223372036854775808", DIGITS])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)
