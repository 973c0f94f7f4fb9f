"""What every model of the HTTP API is: strict bodies, open answers; and the check of a body.

Place on the path: beneath the models of all pages.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from monosemy.errors import UserError

Interval = tuple[float, float]


class Wire(BaseModel):
    """Fields are documented by their docstrings; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


class Body(Wire):
    """A request's body. Names that it does not know are left alone."""

    model_config = ConfigDict(extra="ignore")


class Open(Wire):
    """An answer with more keys than are named, for display."""

    model_config = ConfigDict(extra="allow")


B = TypeVar("B", bound=Body)


def parse_body(kind: type[B], values: dict[str, Any]) -> B:
    """The checked body. Raises a one-line UserError that names the first field that is missing or of the wrong type."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name, place = str(first["loc"][0]), ".".join(map(str, first["loc"]))
        expected = getattr(kind.model_fields[name].annotation, "__name__", "")
        value = None if first["type"] == "missing" else first["input"]
        if expected in ("str", "int", "bool", "list"):
            got = "nothing" if value is None else repr(value)[:40]
            raise UserError(f"{place} must be {expected}, got {got}") from None
        raise UserError(f"{place}: {first['msg']}, got {value!r:.40}") from None
