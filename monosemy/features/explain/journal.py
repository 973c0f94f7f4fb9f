"""A journal of every question put to a chat model and its answer, so that none is lost or asked twice.

Place on the data's path: `explanations` → [explanations.jsonl beside the feature database], one JSON line per question.
The key of a line is a hash of the model's identity (not its name, which two models may share), the kind of question,
the messages and the pieces. A question asked before is answered from the file, which is how an interrupted command
continues. Lines are appended and flushed to disk one by one; a last line cut short by a kill is ignored.
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
    """The questions and answers in one file. `ask` raises UserError when the file cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, Any] = {}
        self.n_asked = 0
        """Number of questions that this process has put to a model."""
        self._cut_short = False
        if path.exists():
            data = path.read_bytes()
            self._cut_short = bool(data) and not data.endswith(b"\n")
            # not splitlines: JSON strings may hold other line ends, such as U+2028, unescaped
            for line in data.decode("utf-8", "replace").split("\n"):
                self._read(line)

    def ask(
        self, chat: ChatModel, latent: int, kind: str, messages: Any, *, question: Callable[[], Any], **facts: Any
    ) -> Any:
        """The recorded answer to this question, or the answer of `question()`, which is then recorded.

        `facts` are JSON values to be stored beside the answer; of these only `pieces` is part of the key.
        """
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
                # a fragment left by a kill must not swallow the first new line
                file.write("\n" + text if self._cut_short else text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise files.explain_os_error(error, self._path) from error
        self._cut_short = False
