"""Every question put to a chat model and its answer, one JSON line each: nothing asked is lost or asked twice.

Place on the data's path: `explanations` → [explanations.jsonl beside the feature database]. The key of a line is a
hash of the model's identity (not of its name, which two models may share), the kind of question and the messages;
asking the same again takes the answer from the file, which is how an interrupted command goes on. Lines are appended
and flushed to disk one by one; a last line cut short by a kill is left out.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import fingerprint
from monosemy.support import files

if TYPE_CHECKING:
    from monosemy.features.explain.chat import ChatModel


class Journal:
    """The answers in a file. Raises UserError when the file cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, Any] = {}
        self.n_asked = 0
        """Questions put in this process."""
        self._cut_short = False
        if path.exists():
            data = path.read_bytes()
            self._cut_short = bool(data) and not data.endswith(b"\n")
            for line in data.decode("utf-8", "replace").split("\n"):  # texts may hold the other line ends
                self._read(line)

    def ask(
        self, chat: ChatModel, latent: int, kind: str, messages: Any, *, question: Callable[[], Any], **facts: Any
    ) -> Any:
        """The kept answer to this question, or else that of `question()`, kept from now on. facts: JSON beside it."""
        key = fingerprint([chat.identity, kind, messages, facts.get("pieces")])
        if key not in self._answers:
            answer = question()
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            line = {"key": key, "at": now, "chat": chat.name, "latent": latent, "kind": kind, "messages": messages}
            self._append({**line, **facts, "answer": answer})
            self._answers[key] = answer
            self.n_asked += 1
        return self._answers[key]

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self._answers[entry["key"]] = entry["answer"]
        except (ValueError, KeyError, TypeError):
            return  # cut short by a kill

    def _append(self, entry: dict[str, Any]) -> None:
        text = json.dumps(entry, ensure_ascii=False) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + text if self._cut_short else text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise files.explain_os_error(error, self._path) from error
        self._cut_short = False
