"""Help: complete, and as wide as the terminal."""

from __future__ import annotations

import pytest

from gguflow.cli import commands, main, parser
from gguflow.cli.parsing import wrap_line


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is listed, explained, and explains each of its options."""
    parsers = dict(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr, arg-type]
    assert list(parsers) == list(commands())
    for name, command in parsers.items():
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert len(command.description) > 50
        for action in command._actions:
            assert action.help, f"{name}: {action.dest} is not explained"
            assert all(option in shown for option in action.option_strings)


def test_commands_are_listed_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    in_order = ["convert", "export", "compare", "inspect", "validate", "edit", "run", "perplexity"]
    in_order += ["architectures", "formats"]
    assert [word for word in words if word in commands()] == in_order


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", [[], *([name] for name in commands())], ids="".join)
def test_help_fits_the_terminal(
    command: list[str], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width * 0.75, "and uses it"


WRAPPED = {
    "short": ("  gguflow inspect FILE", ["  gguflow inspect FILE"]),
    "a command": (
        "  gguflow edit model.gguf --set a=str:b -o fixed.gguf",
        ["  gguflow edit model.gguf \\", "      --set a=str:b \\", "      -o fixed.gguf"],
    ),
    "a quoted word": (
        '  gguflow run model.gguf -p "def fib(n):" -n 64',
        ["  gguflow run model.gguf \\", '      -p "def fib(n):" -n 64'],
    ),
    "a comment": (
        "  # writes three files into one directory",
        ["  # writes three files into", "  # one directory"],
    ),
    "a list": (
        "  a  the explanation of the term a",
        ["  a  the explanation of the", "     term a"],
    ),
    "a list with a long term": (
        "  term-of-a-list  its explanation is long",
        ["  term-of-a-list", "      its explanation is long"],
    ),
    "other text": (
        "  some text that is too long for it",
        ["  some text that is too long", "    for it"],
    ),
}


@pytest.mark.parametrize(("line", "expected"), WRAPPED.values(), ids=WRAPPED)
def test_long_lines_are_wrapped(line: str, expected: list[str]) -> None:
    assert wrap_line(line, 30) == expected
