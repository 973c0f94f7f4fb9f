"""What the commands' argument parsers have in common: every wrong word is one line, every number has a range.

Place on the data's path: below all commands. A wrong word raises UserError, which the command line prints as its one
line `error: …` with status 2, in place of argparse's usage text.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from monosemy.config import count
from monosemy.errors import UserError
from monosemy.ranges import Range

T = TypeVar("T", int, float)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """argparse's words as one line, without the usage before it."""
        message = re.sub(r"^argument (\S+?): (?=(invalid|expected|not allowed))", r"\1: ", message)
        message = re.sub(r"^argument (\S+?): ", r"\1 ", message)
        message = message.replace("the following arguments are required", "missing").replace(
            "unrecognized arguments", "unknown"
        )
        hint = "" if "; e.g. " in message else f"; {self.prog} --help tells more"
        raise UserError(message + hint)


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
