"""Every command's `--help` has the same layout, placeholders and defaults, and explains every flag."""

from __future__ import annotations

import argparse
import re

import pytest

from monosemy import cli
from monosemy.circuits.jacobian.commands import SUBCOMMANDS
from monosemy.ranges import Range
from monosemy.rooms import PURPOSES
from monosemy.support.arguments import Parser, amount, real, whole

WITHOUT_PARSER = {"jacobian"}
"""Commands that only lead to sub-commands."""
COMMANDS = [
    *([name] for name in cli.commands() if name not in WITHOUT_PARSER),
    *(["jacobian", name] for name in SUBCOMMANDS),
]
SECTIONS = {"positional arguments:", "options:"}


@pytest.fixture(params=COMMANDS, ids=" ".join)
def command(request, monkeypatch, capsys):
    """(words of a command, its parser, the lines of its help)."""
    parsers = []
    monkeypatch.setattr(Parser, "print_help", lambda self, file=None: parsers.append(self))
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        cli.main([*request.param, "--help"])
    assert ended.value.code == 0
    (parser,) = parsers
    return request.param, parser, parser.format_help().splitlines()


def test_every_argument_has_a_help_of_whole_sentences(command):
    _, parser, _ = command
    for action in parser._actions:
        name = "/".join(action.option_strings) or action.dest
        text = re.sub(r" \(default: .+\)$", "", action.help or "")
        assert re.match(r"[A-Zλ0-9`]", text), f"{name}: {text!r}"
        assert text.endswith("."), f"{name}: {text!r}"


def test_defaults_are_written_one_way(command):
    _, parser, lines = command
    words = " ".join(" ".join(lines).split())
    assert re.findall(r"\(?\b[Dd]efaults?\b(?=:? )", re.sub(r"\(default: [^()]*(\([^()]*\))*[^()]*\)", "", words)) == []
    for action in parser._actions:
        has_value = isinstance(action.default, float | str) or type(action.default) is int
        if has_value and action.default not in ("", argparse.SUPPRESS):
            assert f"(default: {action.default:{'g' if isinstance(action.default, float) else ''}})" in words


def test_the_layout_is_usage_summary_examples_arguments(command):
    words, _, lines = command
    called = f"monosemy {' '.join(words)}"
    assert lines[0].startswith(f"usage: {called} ")
    assert len(lines[0]) <= 80
    assert lines[1] == ""
    assert re.match(r"[A-Z].*\.$", lines[2])
    titles = [line for line in lines if line in SECTIONS | {"example:", "examples:"}]
    assert titles[0] in ("example:", "examples:")
    assert titles[-1] == "options:"
    examples = lines[lines.index(titles[0]) + 1 :]
    examples = examples[: examples.index("")]
    assert all(example.startswith(f"  {called}") for example in examples)
    assert (titles[0] == "examples:") == (len(examples) > 1)


def test_placeholders_are_choices_numbers_or_names_in_capitals(command):
    _, parser, lines = command
    assert not any("{" in line for line in lines)
    for action in parser._actions:
        if action.choices:
            assert "|".join(action.choices) in "\n".join(lines)


def test_the_commands_stand_in_groups_of_what_one_wants(capsys):
    cli.main(["--help"])
    usage, *blocks, end = capsys.readouterr().out.strip().split("\n\n")
    assert (usage, end.startswith("monosemy COMMAND --help tells more")) == ("usage: monosemy COMMAND …", True)
    groups = {title: [line.split()[0] for line in lines] for title, *lines in map(str.splitlines, blocks)}
    assert list(groups) == [purpose for purpose in PURPOSES if purpose in groups]
    assert sorted(name for names in groups.values() for name in names) == sorted(cli.commands())
    assert groups["start"] == ["try", "demo"]
    assert {"steer", "bias", "serve"} <= set(groups["steer"])
    assert {"browse", "trace", "features"} <= set(groups["read latents"])
    assert len(groups) >= 6


@pytest.mark.parametrize("name", ["try", "demo", "plan"])
def test_help_shows_the_flags_most_want_and_help_all_the_rest(name, capsys):
    texts = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            cli.main([name, flag])
        assert ended.value.code == 0
        texts.append(capsys.readouterr().out)
    brief, whole = (
        {line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  -")} for text in texts
    )
    assert {"--run", "--tokens", "--l0", "--help-all"} < brief < whole
    assert 3 * len(texts[0].splitlines()) < len(texts[1].splitlines())


def test_every_summary_asks_for_something():
    """As far as a test can tell: no summary begins with an article or in the third person."""
    for command in cli.commands().values():
        assert not re.match(r"(a|an|the|what|\w+s)\b", command.summary), command


def test_what_the_parser_makes_of_types_and_defaults():
    parser = Parser("monosemy try", "try things", examples=("monosemy try 3",))
    parser.add_argument("number", type=whole(Range(0, example=3)), help="A number.")
    parser.add_argument(
        "--share", type=real(Range(0, 1, example=0.5)), nargs="+", default=[0.25, 1.0], help="100%% of it."
    )
    parser.add_argument("--tokens", type=amount(Range(0, example=3)), default="8k", help="Tokens.")
    parser.add_argument("--seed", type=whole(Range(0, example=3)), default=0, help="A seed.")
    parser.add_argument("--kind", choices=("a", "b"), help="Kind.")
    parser.add_argument("--model-id", help="Name. (default: from the run)")
    assert parser.parse_args(["3"]).tokens == 8000
    text = parser.format_help()
    for line in (
        "usage: monosemy try NUMBER [FLAGS]",
        "Try things.",
        "--share X [X ...]",
        "(default: 0.25 1)",
        "Tokens. (default: 8k)",
        "A seed. (default: 0)",
        "--kind a|b",
        "--model-id MODEL-ID",
        "Name. (default: from the run)",
    ):
        assert line in text
