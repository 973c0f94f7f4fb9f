"""Reads the content of a row from one of its columns: a text, a chat, or token ids.

Place on the data's path: rows (`formats`, a hub dataset) -> **content** -> documents. A column is a name, or a path
into nested values: `meta.body` is the field `body` of the object `meta`, and `messages[].content` joins that field of
all items of a list, with blank lines in between. A column whose own name contains dots or brackets takes precedence.

  text       a string, or UTF-8 bytes; null and an empty list are an empty text
  chat       a list of {"role", "content"}, or of ShareGPT's {"from", "value"}, with at least one message
  token ids  a list of integers, with at least one
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from monosemy.data.documents import TokenIds
from monosemy.errors import UserError, near_matches

Chat: TypeAlias = list[dict[str, str]]
"""Messages {"role", "content"} in order."""
Content: TypeAlias = str | Chat | TokenIds

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
_LARGEST_ID = np.iinfo(np.int32).max


def content_of(row: Mapping[str, Any], column: str, where: str) -> Content:
    """The content of a row's column. Raises UserError when there is none; `where` names the row in the message."""
    return _content(value_of(row, column, where), column, where)


def value_of(row: Mapping[str, Any], column: str, where: str) -> Any:
    """The value at a column's path. A list on the way (`[]`) gives the texts of its items, joined by blank lines.

    Raises UserError when the path does not exist, or when a list's items are not text.
    """
    if column in row:
        return row[column]
    value: Any = row
    steps = re.findall(r"\[\]|[^.\[\]]+", column)
    for k, step in enumerate(steps):
        if value is None:
            return None
        if step == "[]":
            if not isinstance(value, Sequence) or isinstance(value, str | bytes):
                raise UserError(f"{where}: column {column!r}: what stands before [] holds {_kind(value)}, not a list")
            # The rest of the path is looked up in each item, by this function, which joins inner lists in turn.
            rest = ".".join(steps[k + 1 :]).replace(".[]", "[]")
            items = [value_of(item, rest, where) if rest else item for item in value]
            if wrong := [item for item in items if not isinstance(item, str | None)]:
                raise UserError(f"{where}: column {column!r} holds {_kind(wrong[0])}, not text")
            return "\n\n".join(item for item in items if item)
        if not isinstance(value, Mapping) or step not in value:
            raise missing_column(column, column_names(row), where)
        value = value[step]
    return value


def column_names(row: Mapping[str, Any]) -> list[str]:
    """The names of a row's columns, and of the fields of objects in them, as in `meta.body`."""
    inner = [f"{name}.{key}" for name, value in row.items() if isinstance(value, Mapping) for key in value]
    return [*(str(name) for name in row), *inner]


def missing_column(column: str, existing: Sequence[str], where: str) -> UserError:
    """The error for a `TextConfig.column` that does not exist."""
    near = near_matches(column, existing)
    hint = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
    column_list = ", ".join(existing[:40]) + (", …" if len(existing) > 40 else "")
    return UserError(
        f"{where} has no column {column!r};{hint} columns: {column_list or 'none'}; choose one with --text.column"
    )


def _content(value: Any, column: str, where: str) -> Content:
    """The value of a column as text, chat or token ids. Raises UserError when it is none of these."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{where}: column {column!r} is not UTF-8 ({error.reason} at byte {error.start}); rewrite it as text"
            ) from None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        if not value:
            return ""
        # `type(…) is int` rather than isinstance: True and False are no token ids.
        if all(type(item) is int for item in value):
            return _token_ids(value, column, where)
        if all(isinstance(item, Mapping) for item in value):
            return [_message(item, column, where) for item in value]
    raise UserError(
        f"{where}: column {column!r} holds {_kind(value)}, not text; choose a column of text, of chat messages "
        "(role, content) or of token ids"
    )


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {type(value[0]).__name__}" if value else "an empty list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def _token_ids(value: list[int], column: str, where: str) -> TokenIds:
    if not 0 <= min(value) <= max(value) <= _LARGEST_ID:
        outside = min(value) if min(value) < 0 else max(value)
        raise UserError(f"{where}: column {column!r} holds token id {outside}; ids lie between 0 and {_LARGEST_ID}")
    return np.array(value, np.int32)


def _message(item: Mapping[str, Any], column: str, where: str) -> dict[str, str]:
    """One message as {"role", "content"}, from that form or ShareGPT's. Raises UserError when it has no role."""
    role, content = (item["role"], item.get("content")) if "role" in item else (item.get("from"), item.get("value"))
    if not isinstance(role, str):
        raise UserError(
            f"{where}: column {column!r} holds a message without a role (its fields: {', '.join(map(str, item))}); "
            f"each must be {{role, content}}; for the bare text of a field, ask for a path such as '{column}[].text'"
        )
    return {"role": _SHAREGPT_ROLES.get(role, role), "content": _message_text(content, column, where)}


def _message_text(content: Any, column: str, where: str) -> str:
    """The text of a message, or the joined texts of its parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    # Multimodal chats give a message as parts; only text can be read.
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        if all(isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
        kinds = sorted({str(part.get("type")) for part in content if not isinstance(part.get("text"), str)})
        raise UserError(f"{where}: column {column!r} holds a message with parts that are no text ({', '.join(kinds)})")
    raise UserError(f"{where}: column {column!r} holds a message whose content is {_kind(content)}, not text")
