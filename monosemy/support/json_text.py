"""JSON that every reader takes, whatever the values: the writer behind `--json`, metrics, and files of lines.

Python's own writes NaN and Infinity, which are no JSON, and half a surrogate pair (from a file name that is not UTF-8)
as bytes that are no UTF-8. Here numbers that are not finite become null, and such halves their escape, `\\udce9`, which
Python's reader turns into the same text again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")


def dumps(value: Any, *, separators: tuple[str, str] | None = None) -> str:
    """One line of JSON; a value that is no JSON of any kind (an array, a set) raises TypeError."""
    return whole_characters(json.dumps(finite(value), allow_nan=False, ensure_ascii=False, separators=separators))


def finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def whole_characters(text: str) -> str:
    """JSON text with halves of surrogate pairs as escapes, so that it can be written as UTF-8."""
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
