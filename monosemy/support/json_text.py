"""Writes JSON that every reader accepts, whatever the values: for `--json`, metrics, and files of lines.

Python's own writer produces NaN and Infinity, which are not JSON, and turns half a surrogate pair (from a file name
that is not UTF-8) into bytes that are not UTF-8. Here, numbers that are not finite become null, and such halves become
their escape, `\\udce9`, which Python's reader turns back into the same text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")


def dumps(value: Any, *, separators: tuple[str, str] | None = None) -> str:
    """The value as one line of JSON. Raises TypeError for a value that JSON has no form for (an array, a set)."""
    return whole_characters(json.dumps(finite(value), allow_nan=False, ensure_ascii=False, separators=separators))


def finite(value: Any) -> Any:
    """The value, with every number in it that is not finite replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def whole_characters(text: str) -> str:
    """JSON text with half surrogate pairs replaced by escapes, so that it can be written as UTF-8."""
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
