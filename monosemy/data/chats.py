"""Writes chats as text, in the form the model was trained on: with its tokenizer's chat template.

Place on the data's path: `messages` (`columns`) -> **text** -> documents. A chat becomes one document, without a prompt
for a further answer. Where the template refuses a system message, its text is put before the first user message; the
record counts these chats.

Limits: a template writes its own special tokens, including those at the start of a text. Packing sees to it that BOS
and the separator do not occur twice.
"""

from __future__ import annotations

from typing import Any

from monosemy.config import fingerprint
from monosemy.data.columns import Chat
from monosemy.errors import UserError


class ChatTemplate:
    """The chat template of a tokenizer. The tokenizer may have none, or be missing itself (None)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = getattr(tokenizer, "chat_template", None)
        self._refuses_system = False

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the template's text; None without a template."""
        return fingerprint(self._template) if self._template else None

    def write(self, chat: Chat, where: str) -> tuple[str, tuple[str, ...]]:
        """Writes a chat as (text, notes). Raises UserError, which begins with `where`, when the template cannot."""
        if not self._template:
            lacking = "tokenizer" if self._tokenizer is None else "chat template"
            raise UserError(
                f"{where} holds a chat, and the model has no {lacking} to write it out; ask for the bare text of "
                "the messages, e.g. --text.column 'messages[].content', or choose a chat model"
            )
        has_system = chat[0]["role"] == "system"
        if not (has_system and self._refuses_system):
            try:
                return self._written(chat), ("chat",)
            except Exception as error:  # a template is a program: it may raise anything
                if not has_system:
                    raise self._unwritable(error, where) from None
        # A template that failed on a chat with a system message may only refuse that message. If the chat can be
        # written without it, later chats skip the first attempt.
        try:
            text = self._written(_without_system(chat))
        except Exception as error:
            raise self._unwritable(error, where) from None
        self._refuses_system = True
        return text, ("chat", "system")

    def _written(self, chat: Chat) -> str:
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False))

    @staticmethod
    def _unwritable(error: Exception, where: str) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(
            f"{where}: the model's chat template cannot write this chat ({type(error).__name__}: {reason}); correct "
            "the chat, or ask for the bare text of the messages, e.g. --text.column 'messages[].content'"
        )


def _without_system(chat: Chat) -> Chat:
    """The chat with its system message put before the first user message."""
    system, rest = chat[0]["content"], [dict(message) for message in chat[1:]]
    for message in rest:
        if message["role"] == "user":
            message["content"] = f"{system}\n\n{message['content']}" if system else message["content"]
            break
    return rest
