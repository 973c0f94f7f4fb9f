"""From words to tokens: what every task needs of the model's tokenizer.

Place on the path: text → [token ids, all prompts of one length] → `TaskData`.

Every prompt starts with the token that starts a document for this model (its BOS, else the separator between
documents), so that the first word is treated like the others. Limits: only fast tokenizers of transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.circuits.heads.task import Example
from monosemy.data.tokens import separator_and_bos
from monosemy.errors import UserError


@dataclass(frozen=True)
class Draft:
    """An example in words."""

    text: str
    corrupted: str
    answers: tuple[str, ...]
    """Continuations of `text`, each with its leading space where it has one."""
    wrong: tuple[str, ...]


class Prompts:
    """Encodes prompts and answers with one model's tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        separator, bos = separator_and_bos(tokenizer)
        start = bos if bos is not None else separator
        self.start: tuple[int, ...] = () if start is None else (start,)

    def encode(self, text: str) -> tuple[int, ...]:
        """The token ids of a text, after the start token."""
        return (*self.start, *self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def single(self, word: str) -> int | None:
        """The token of `word` where it follows other text; None when it takes several tokens."""
        # "x" stands for the text before: a tokenizer may treat the first word of a text differently.
        before, after = self.encode("x"), self.encode(f"x{word}")
        return after[-1] if len(after) == len(before) + 1 and after[:-1] == before else None

    def single_token_words(self, words: Iterable[str]) -> tuple[str, ...]:
        """The words that are one token after a space."""
        return tuple(word for word in words if self.single(f" {word}") is not None)

    def next_tokens(self, prompt: str, answers: Sequence[str]) -> tuple[int, ...]:
        """The tokens with which the answers continue `prompt`, each once.

        Raises UserError when an answer takes several tokens, merges into the prompt's last token, or is unknown to the
        tokenizer.
        """
        if not answers:
            return ()
        # Prompt and answer are tokenized together, since a tokenizer may merge across the border between them.
        before = self.encode(prompt)
        texts = [prompt + answer for answer in answers]
        continued = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for answer, ids in zip(answers, continued):
            n_more = len(self.start) + len(ids) - len(before)
            if n_more < 1 or (*self.start, *ids)[: len(before)] != before:
                raise UserError(
                    f"the answer {answer!r} melts into the last token of the prompt {prompt!r}; move the space that "
                    "parts them to the answer's front"
                )
            if n_more > 1:
                raise UserError(
                    f"the answer {answer!r} is {n_more} tokens in this model's tokenizer; answers must be one token: "
                    "choose another word"
                )
            # GPT-2's unknown token is also its end of text, which may be an answer.
            unknown = getattr(self.tokenizer, "unk_token_id", None)
            if ids[-1] == unknown and unknown != getattr(self.tokenizer, "eos_token_id", None):
                raise UserError(
                    f"the answer {answer!r} is unknown to this model's tokenizer (it reads "
                    f"{self.tokenizer.unk_token!r}); choose a word of its vocabulary"
                )
        return tuple(dict.fromkeys(ids[-1] for ids in continued))

    def example(self, draft: Draft) -> Example:
        """The draft in tokens. Raises UserError as `next_tokens` does."""
        answers, wrong = (self.next_tokens(draft.text, words) for words in (draft.answers, draft.wrong))
        tokens = self.encode(draft.text), self.encode(draft.corrupted)
        return Example(
            *tokens,
            answers,
            wrong,
            text=draft.text,
            corrupted_text=draft.corrupted,
            answer_texts=tuple(draft.answers),
            wrong_texts=tuple(draft.wrong),
        )


def enough(task: str, kind: str, single_tokens: Sequence[Any], needed: int) -> None:
    """Raises UserError when fewer than `needed` words of a kind are single tokens."""
    if len(single_tokens) < needed:
        raise UserError(
            f"only {len(single_tokens)} {kind} are single tokens of this model's tokenizer, {task} needs {needed}; "
            "choose another task or give your own prompts as a JSONL file"
        )


def of_one_length(prompts: Sequence[str], encode: Prompts) -> tuple[int, list[bool]]:
    """The most common number of tokens among the prompts (the largest at a tie), and which prompts have it."""
    lengths = [len(encode.encode(prompt)) for prompt in prompts]
    counts = Counter(lengths)
    best = max(counts, key=lambda length: (counts[length], length))
    return best, [length == best for length in lengths]


def sample(random: np.random.Generator, words: Sequence[str], n: int) -> list[str]:
    """n different words, drawn at random."""
    return [words[i] for i in random.choice(len(words), n, replace=False)]


def share(single_tokens: Sequence[Any], of: Sequence[Any], kind: str) -> str:
    """A sentence for a task's provenance: how many words of a kind are single tokens."""
    return f"{len(single_tokens)} of {len(of)} {kind} are single tokens"
