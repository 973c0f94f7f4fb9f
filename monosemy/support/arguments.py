"""The one argument parser of all commands: every wrong word is one line, every number has a range, every help alike.

Place on the data's path: below all commands. A wrong word raises UserError, which the command line prints as its one
line `error: …` with status 2, in place of argparse's usage text.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from monosemy.config import count
from monosemy.errors import UserError
from monosemy.ranges import Range

T = TypeVar("T", int, float)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors, and whose usage names what must be given and not every flag."""

    def __init__(self, prog: str, description: str = "", **options: Any) -> None:
        """The description's lines stay as they are written."""
        options = {"formatter_class": argparse.RawDescriptionHelpFormatter} | options
        super().__init__(prog, description=description, **options)

    def format_help(self) -> str:
        if self.usage is None:
            required = [action for action in self._actions if action.required and action.option_strings]
            words = [f"{action.option_strings[0]} {action.metavar or action.dest.upper()}" for action in required]
            words += [_place(action) for action in self._get_positional_actions()]
            self.usage = " ".join(["%(prog)s", *words, "[FLAGS]"])
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """argparse's words as one line, without the usage before it."""
        message = re.sub(r"^argument (--[^/\s:]+)/\S+?: ", r"argument \1: ", message)
        message = re.sub(r"^argument (\S+?): (?=(invalid|expected|not allowed))", r"\1: ", message)
        message = re.sub(r"^argument (\S+?): ", r"\1 ", message)
        message = message.replace("the following arguments are required", "missing").replace(
            "unrecognized arguments", "unknown"
        )
        hint = "" if "; e.g. " in message else f"; {self.prog} --help tells more"
        raise UserError(message + hint)


def _place(positional: argparse.Action) -> str:
    """`RUN`, `[LATENT ...]`: a positional argument in the usage."""
    name = str(positional.metavar or positional.dest).upper()
    name += " ..." if positional.nargs in ("+", "*") else ""
    return name if positional.required else f"[{name}]"


def whole(allowed: Range) -> Callable[[str], int]:
    """The type of a flag that takes a whole number of a range."""

    def read(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a whole number, got {word!r}") from None
        return _within(allowed, number)

    return read


def real(allowed: Range) -> Callable[[str], float]:
    """The type of a flag that takes a number of a range."""

    def read(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a number, got {word!r}") from None
        return _within(allowed, number)

    return read


def amount(allowed: Range) -> Callable[[str], int]:
    """The type of a flag that takes a count with an optional unit, e.g. `150k`."""

    def read(word: str) -> int:
        try:
            number = count("", word)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None
        return _within(allowed, number)

    return read


def _within(allowed: Range, number: T) -> T:
    try:
        allowed.require("", number)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from None
    return number
