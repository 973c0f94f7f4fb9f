"""The one argument parser of all commands: every wrong word is one line, every number has a range, every help alike.

Place on the data's path: below all commands. A wrong word raises UserError, which the command line prints as its one
line `error: …` with status 2, in place of argparse's usage text.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from monosemy.config import count
from monosemy.errors import UserError
from monosemy.ranges import Range, number_name

T = TypeVar("T", int, float)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors and whose help has one layout: summary, examples, arguments.

    The usage names what must be given, and not every flag.
    """

    def __init__(
        self,
        prog: str,
        summary: str,
        *,
        details: str = "",
        examples: Sequence[str] = (),
        brief: Collection[str] = (),
        **options: Any,
    ):
        """The summary is one sentence, `details` are paragraphs below it; the lines of both stay as they are written.

        `summary` may be the command's line in `monosemy --help`, which begins small and has no full stop. `brief` are
        the flags that `--help` shows; `--help-all` then shows all.
        """
        title = "example:" if len(examples) == 1 else "examples:"
        shown_examples = "\n".join([title, *(f"  {example}" for example in examples)]) if examples else ""
        paragraphs = [f"{summary[:1].upper()}{summary[1:].removesuffix('.')}.", details.strip("\n"), shown_examples]
        super().__init__(
            prog,
            description="\n\n".join(filter(None, paragraphs)),
            formatter_class=_HelpFormatter,
            add_help=False,
            **options,
        )
        # argparse takes -5 for a value but -1e-3 and -inf for flags; as values they get an answer about their range
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf$|nan$)")
        self.add_argument("-h", "--help", action="help", help="Show this help and exit.")
        self._brief = {"--help", "--help-all", *brief} if brief else frozenset()
        if brief:
            self.add_argument("--help-all", action=_HelpAll, help="Show every setting and exit.")

    def format_help(self) -> str:
        if self.usage is None:
            required = [action for action in self._actions if action.required and action.option_strings]
            words = [f"{action.option_strings[0]} {metavar_of(action)}" for action in required]
            words += [_place(action) for action in self._get_positional_actions()]
            self.usage = " ".join(["%(prog)s", *words, "[FLAGS]"])
        if not self._brief:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        formatter.start_section("options")
        formatter.add_arguments([action for action in self._actions if self._brief & set(action.option_strings)])
        formatter.end_section()
        return formatter.format_help()

    def show_all(self) -> None:
        """Makes the help show every flag."""
        self._brief = frozenset()

    def error(self, message: str) -> NoReturn:
        """argparse's words as one line, without the usage before it; a missing argument comes with its help."""
        names, required, missing = message.partition("the following arguments are required: ")
        if required and not names:
            message = f"missing: {'; '.join(self._described(name) for name in missing.split(', '))}"
        message = re.sub(r"^argument (--[^/\s:]+)/\S+?: ", r"argument \1: ", message)
        message = re.sub(r"^argument (\S+?): (?=(invalid|expected|not allowed))", r"\1: ", message)
        message = re.sub(r"^argument (\S+?): ", r"\1 ", message)
        message = message.replace("unrecognized arguments", "unknown")
        hint = "" if "; e.g. " in message else f"; {self.prog} --help tells more"
        raise UserError(message + hint)

    def _described(self, name: str) -> str:
        """`RUN, a run folder, e.g. runs/demo`: a required argument, by argparse's name, as the help describes it."""
        by_name = {"/".join(action.option_strings) or action.metavar or action.dest: action for action in self._actions}
        action = by_name[name]
        placeholder = " ".join([*action.option_strings[:1], metavar_of(action)])
        text = (action.help or "").removesuffix(".").replace("%%", "%")
        return f"{placeholder}, {text[:1].lower()}{text[1:]}"


class _HelpAll(argparse.Action):
    """The action of `--help-all`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.show_all()
        parser.print_help()
        parser.exit()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Writes every placeholder and every default in the same way."""

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        return lambda n_words: (metavar_of(action),) * n_words

    def _get_help_string(self, action: argparse.Action) -> str:
        """The help, with the default behind it unless it says a default itself.

        Flags without a value and those that are empty by default have nothing to add.
        """
        text = action.help or ""
        empty = action.default is None or action.default is False or action.default in ("", [], argparse.SUPPRESS)
        if "(default: " in text or empty:
            return text
        return f"{text} (default: {default_text(action.default).replace('%', '%%')})"


def metavar_of(action: argparse.Action) -> str:
    """The placeholder of an argument's value in the help.

    For flags it is `a|b` for choices, `N` or `X` for numbers, or else the name in capitals, as for all positionals.
    """
    if not action.option_strings:
        return str(action.metavar or action.dest).upper()
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    if isinstance(action.type, NumberType):
        return action.type.metavar
    return action.dest.rpartition(".")[2].replace("_", "-").upper()


def default_text(value: Any) -> str:
    """A default as the user would type it: `32`, `0.004`, `relu topk`; `none` for an empty list."""
    if isinstance(value, list | tuple):
        return " ".join(map(default_text, value)) or "none"
    return number_name(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _place(positional: argparse.Action) -> str:
    """`RUN`, `[LATENT ...]`: a positional argument in the usage."""
    name = metavar_of(positional) + (" ..." if positional.nargs in ("+", "*") else "")
    return name if positional.required else f"[{name}]"


@dataclass(frozen=True)
class NumberType:
    """The type of a flag that takes a number: reads the word, and has the placeholder that the help shows."""

    read: Callable[[str], Any]
    metavar: str

    def __call__(self, word: str) -> Any:
        return self.read(word)


def whole(allowed: Range) -> NumberType:
    """The type of a flag that takes a whole number of a range."""

    def read(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a whole number, got {word!r}") from None
        return _within(allowed, number)

    return NumberType(read, "N")


def real(allowed: Range) -> NumberType:
    """The type of a flag that takes a number of a range."""

    def read(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a number, got {word!r}") from None
        return _within(allowed, number)

    return NumberType(read, "X")


def amount(allowed: Range) -> NumberType:
    """The type of a flag that takes a count with an optional unit, e.g. `150k`."""

    def read(word: str) -> int:
        try:
            number = count("", word)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None
        return _within(allowed, number)

    return NumberType(read, "N")


def _within(allowed: Range, number: T) -> T:
    try:
        allowed.require("", number)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from None
    return number
