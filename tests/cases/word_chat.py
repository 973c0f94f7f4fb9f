"""A deterministic stand-in for a chat model: it explains a latent by the commonest marked word and answers by words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from monosemy.models.prompts import Messages


class WordChat:
    """Says yes to a text with the word of the description; to marked words, when they are that word."""

    def __init__(self, name: str = "word-chat", limit: int | None = None) -> None:
        self.name = self.identity = name
        self.note = ""
        self.limit = limit
        """Questions it answers before it is interrupted."""
        self.n_questions = 0

    def fits(self, messages: Messages, n_reply_tokens: int) -> bool:
        return len(messages[-1]["content"]) < 4000

    def reply(self, messages: Messages, n_tokens: int) -> str:
        self._count()
        words = re.findall(r"«([^»]*)»", messages[-1]["content"])
        return f"The phrase is:\n“{Counter(words).most_common(1)[0][0]}.”"

    def yes(self, messages: Messages) -> tuple[float | None, str]:
        self._count()
        word, text = re.match(r".*?fires on: (.*?)\n\nText: (.*?)\n\n", messages[-1]["content"], re.DOTALL).groups()  # type: ignore[union-attr]
        marked = re.findall(r"«([^»]*)»", text)
        right = all(word in mark for mark in marked) if marked else word in text
        return (0.9, "Yes") if right else (0.2, "No")

    def digits(self, messages: Messages, pieces: Sequence[str]) -> list[float] | None:
        self._count()
        word = messages[-1]["content"].split("Description: ")[1]
        return [9.0 if word in piece else 0.0 for piece in pieces]

    def _count(self) -> None:
        if self.limit is not None and self.n_questions >= self.limit:
            raise KeyboardInterrupt
        self.n_questions += 1
