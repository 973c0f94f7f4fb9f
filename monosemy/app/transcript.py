"""A text of one's own with the roles of its parts: plain, or a chat written out with the model's template.

Place on the path: the user's words → [text, spans of messages] → own_text. A transcript is written as people paste it:
a line that begins with `User:`, `Human:`, `Assistant:`, `AI:`, `Model:` or `System:` begins a message, and lines
without one continue it; or as JSON, a list of {"role", "content"} or an object that has it as `messages`, as chats are
logged and asked for. A content in parts is the text of its parts, and calls of tools without one are `name(arguments)`.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from monosemy.errors import UserError
from monosemy.models import prompts
from monosemy.models.adapter import LanguageModel

_HEADS = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "system": "system",
}
_HEAD = re.compile(rf"^\s*[*#]*\s*({'|'.join(_HEADS)})\s*[*#]*:[*#]*\s*", re.IGNORECASE)
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Around the number of a message in place of its content: characters for private use, which no template writes."""
_EXAMPLE = "begin its messages with lines such as “User:” and “Assistant:”, or give a JSON list of role and content"


@dataclass(frozen=True)
class Transcript:
    """A text; of a chat, also where its messages stand in it."""

    text: str
    spans: tuple[tuple[int, int, str], ...] = ()
    """(start, stop, role) of every message, in order."""

    def roles_at(self, ends: list[int]) -> list[str]:
        """The role of the message in which each token ends, "" between messages; empty for a plain text."""
        if not self.spans:
            return []
        # messages stand in order: the only one that can hold an end is the last that starts before it
        starts = [start for start, _, _ in self.spans]
        spans = [(0, 0, ""), *self.spans]
        last = [spans[bisect_left(starts, end)] for end in ends]
        return [role if end <= stop else "" for end, (_, stop, role) in zip(ends, last, strict=True)]


def parse_chat(text: str) -> list[dict[str, str]]:
    """The messages of a transcript. Raises UserError for a text that is none."""
    text = text.removeprefix("\ufeff")  # a byte order mark
    if text.lstrip().startswith(("[", "{")):
        return _from_json(text)
    messages: list[dict[str, str]] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            messages.append({"role": _HEADS[head[1].lower()], "content": line[head.end() :]})
        elif messages:
            messages[-1]["content"] += f"\n{line}"
        elif line.strip():
            raise UserError(f"this is no chat: its first line {line.strip()[:40]!r} names no speaker; {_EXAMPLE}")
    messages = [{**message, "content": message["content"].strip()} for message in messages]
    if not messages:
        raise UserError(f"this chat has no messages; {_EXAMPLE}")
    return messages


def _from_json(text: str) -> list[dict[str, str]]:
    try:
        messages: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"this chat is no JSON that can be read ({error}); {_EXAMPLE}") from None
    if isinstance(messages, dict):
        messages = messages.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UserError(f"a chat in JSON is a list of messages, or an object with one as messages; {_EXAMPLE}")
    return [_message(message) for message in messages]


def _message(message: Any) -> dict[str, str]:
    """Role and content as text. Raises UserError for a message without them, or with a part that is no text."""
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if content is None and isinstance(message, dict):
        content = _calls(message.get("tool_calls"))
    if not isinstance(role, str) or not isinstance(content, str):
        shown = json.dumps(message, ensure_ascii=False)[:60]
        raise UserError(f"a message of a chat has a role and a content of text, got {shown}; {_EXAMPLE}")
    return {"role": role, "content": content}


def _calls(calls: Any) -> str | None:
    """What a message that calls tools asks for, one call a line; None for a message without calls."""
    if not isinstance(calls, list):
        return None
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    named = [function for function in functions if isinstance(function, dict) and "name" in function]
    return "\n".join(f"{function['name']}({function.get('arguments') or ''})" for function in named) or None


def written_chat(model: LanguageModel, messages: list[dict[str, str]]) -> Transcript:
    """The chat in the model's template. Raises UserError where it has none, or its template cannot write this chat."""
    tokenizer = model.tokenizer_for("a chat")
    if not prompts.has_template(tokenizer):
        raise UserError(f"{model.name} has no chat template; read the transcript as plain text instead")
    marked = [{**message, "content": f"{_OPEN}{k}{_CLOSE}"} for k, message in enumerate(messages)]
    try:
        text, frame = (str(tokenizer.apply_chat_template(chat, tokenize=False)) for chat in (messages, marked))
    except Exception as error:  # a template is a program from elsewhere: it may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the model's chat template cannot write this chat ({reason}); read it as plain text") from None
    return Transcript(text, tuple(_spans(messages, text, frame)))


def _spans(messages: list[dict[str, str]], text: str, frame: str) -> Iterator[tuple[int, int, str]]:
    """(start, stop, role) of every message. `frame` is what the template writes of the same chat with marks in it.

    What stands before a mark is what the template itself writes before this content, so that a content such as `user`
    is not found in its own header. A template may strip a content, or change or leave out a message: the tokens of one
    that is changed or left out have no role.
    """
    at = 0
    parts = re.split(f"{_OPEN}(\\d+){_CLOSE}", frame)
    for written, number in zip(parts[:-1:2], parts[1::2], strict=True):
        before = text.find(written, at)
        if before < 0:
            continue
        at = before + len(written)
        message = messages[int(number)]
        contents = (message["content"], message["content"].strip())
        content = next((content for content in contents if text.startswith(content, at)), "")
        if content:
            yield at, at + len(content), message["role"]
            at += len(content)
