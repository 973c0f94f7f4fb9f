"""From words to tokens: what every task needs to know of the model's tokenizer.

Place on the path: text → [token ids, all prompts of one length] → `TaskData`.

Every prompt starts with the token that starts a document for this model (its BOS, else the separator between
documents), so that the first word is no different from the others. Limits: fast tokenizers as transformers has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.circuits.task import Example
from monosemy.data.tokens import separator_and_bos
from monosemy.errors import UserError


@dataclass(frozen=True)
class Draft:
    """An example in words."""

    text: str
    corrupted: str
    answers: tuple[str, ...]
    """Continuations, each with its leading space where it has one."""
    wrong: tuple[str, ...]


class Prompts:
    """Encodes prompts and answers with one model's tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        separator, bos = separator_and_bos(tokenizer)
        start = bos if bos is not None else separator
        self.start: tuple[int, ...] = () if start is None else (start,)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids with the start token before them."""
        return (*self.start, *self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def single(self, word: str) -> int | None:
        """The token of `word`, read after other words; None when it takes several."""
        before, after = self.encode("x"), self.encode(f"x{word}")
        return after[-1] if len(after) == len(before) + 1 and after[:-1] == before else None

    def kept(self, words: Iterable[str]) -> tuple[str, ...]:
        """Those that are one token after a space."""
        return tuple(word for word in words if self.single(f" {word}") is not None)

    def next_token(self, prompt: str, answer: str) -> int:
        """The token that continues `prompt` with `answer`. Raises UserError when the answer is several tokens."""
        before, after = self.encode(prompt), self.encode(prompt + answer)
        if after[: len(before)] != before or len(after) <= len(before):
            raise UserError(
                f"the answer {answer!r} melts into the last token of the prompt {prompt!r}; move the space that "
                "parts them to the answer's front"
            )
        if len(after) > len(before) + 1:
            raise UserError(
                f"the answer {answer!r} is {len(after) - len(before)} tokens in this model's tokenizer; answers must "
                "be one token: choose another word"
            )
        return after[-1]

    def example(self, draft: Draft) -> Example:
        """Raises UserError when an answer is several tokens."""
        answers = tuple(dict.fromkeys(self.next_token(draft.text, answer) for answer in draft.answers))
        wrong = tuple(dict.fromkeys(self.next_token(draft.text, answer) for answer in draft.wrong))
        return Example(
            self.encode(draft.text), self.encode(draft.corrupted), answers, wrong, draft.text, draft.corrupted
        )


def enough(task: str, kind: str, kept: Sequence[Any], needed: int) -> None:
    """Raises UserError when too few words of a kind are one token each."""
    if len(kept) < needed:
        raise UserError(
            f"only {len(kept)} {kind} are single tokens of this model's tokenizer, {task} needs {needed}; choose "
            "another task or give your own prompts as a JSONL file"
        )


def of_one_length(prompts: Sequence[str], encode: Prompts) -> tuple[int, list[bool]]:
    """The commonest number of tokens among the prompts (the larger at a tie), and which prompts have it."""
    lengths = [len(encode.encode(prompt)) for prompt in prompts]
    counts = Counter(lengths)
    best = max(counts, key=lambda length: (counts[length], length))
    return best, [length == best for length in lengths]


def drawn(random: np.random.Generator, words: Sequence[str], n: int) -> list[str]:
    """n different words."""
    return [words[i] for i in random.choice(len(words), n, replace=False)]


def share(kept: Sequence[Any], of: Sequence[Any], kind: str) -> str:
    """Provenance: how many words the tokenizer left."""
    return f"{len(kept)} of {len(of)} {kind} are single tokens"
