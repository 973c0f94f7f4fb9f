"""Ranges of the numbers that users give, declared beside the field or flag and checked before anything is loaded.

    batch_tokens: Annotated[int, Range(1, example=1024)] = 1024

`check_ranges` goes through a dataclass and refuses the first value that is outside its range. Reading a saved
configuration does not check ranges, so that a run made under other rules can still be evaluated and reported.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from monosemy.errors import UserError


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, including both unless `above_low` or `below_high` is set.

    NaN and infinities are in no range.
    """

    low: float
    high: float = math.inf
    _: dataclasses.KW_ONLY
    example: float
    """A valid value, for the message."""
    above_low: bool = False
    below_high: bool = False
    or_zero: str = ""
    """The meaning of 0 where 0 is allowed in addition, e.g. `keeps all`."""

    def __contains__(self, value: float) -> bool:
        if self.or_zero and value == 0:
            return True
        above = value > self.low if self.above_low else value >= self.low
        # Without an upper end the comparison is strict, which excludes infinity.
        below = value < self.high if self.below_high or self.high == math.inf else value <= self.high
        return above and below

    @property
    def rule(self) -> str:
        """The rule in words: `must be above 0 and at most 1`."""
        text = f"must be {'above' if self.above_low else 'at least'} {number_name(self.low)}"
        if self.high < math.inf:
            text += f" and {'below' if self.below_high else 'at most'} {number_name(self.high)}"
        return text + (f", or 0, which {self.or_zero}" if self.or_zero else "")

    def require(self, flag: str, value: float) -> None:
        """Raises UserError, naming the flag and a valid value, for a value outside the range."""
        if value not in self:
            raise UserError(f"{flag} {number_name(value)} {self.rule}; e.g. {number_name(self.example)}")


SHARE = Range(0, 1, example=0.1)


def number_name(value: float) -> str:
    """A number as a short text that no other number has: `4`, `0.3`, `4.0000001`."""
    if isinstance(value, int):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value or math.isnan(value) else repr(value)


def numeric_fields(kind: type) -> Iterator[tuple[str, Range | None]]:
    """Yields (dotted name, declared range) of every numeric field of a dataclass and of the dataclasses in it.

    Numeric are integers and floats, optional ones, and tuples of them.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, declared = hints[field.name], None
        if typing.get_origin(hint) is typing.Annotated:
            declared = next((part for part in hint.__metadata__ if isinstance(part, Range)), None)
            hint = hint.__origin__
        if dataclasses.is_dataclass(hint):
            yield from ((f"{field.name}.{name}", inner) for name, inner in numeric_fields(hint))  # type: ignore[arg-type]
        elif _is_numeric(hint):
            yield field.name, declared


def _is_numeric(hint: Any) -> bool:
    if typing.get_origin(hint) in (tuple, typing.Union, types.UnionType):
        return any(_is_numeric(part) for part in typing.get_args(hint))
    return hint in (int, float)


def check_ranges(settings: Any, flag_of: Callable[[str], str]) -> None:
    """Raises UserError for the first number of a dataclass that is outside its range, with its `flag_of(name)`."""
    for name, declared in numeric_fields(type(settings)):
        value = settings
        for part in name.split("."):
            value = getattr(value, part)
        for number in value if isinstance(value, tuple | list) else (value,):
            if number is not None and declared is not None:
                declared.require(flag_of(name), number)


def range_of(kind: type, name: str) -> Range:
    """The range declared for the field with this dotted name."""
    declared = dict(numeric_fields(kind))[name]
    assert declared is not None, name
    return declared
